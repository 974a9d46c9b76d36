//! The embedded IPFS node: fetches what it is to pin, holds it, serves it, and announces it.
