//! The block store of the embedded node: blocks, references, pins, walks and garbage in a RocksDB instance of its own.
