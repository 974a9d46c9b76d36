//! Content in and out: adding files and directories, reading them, CAR files, over any store of blocks.
