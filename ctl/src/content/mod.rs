//! Content in and out: what is behind `add`, `get` and `cat`.
//!
//! | what is held | bound | why |
//! |---|---|---|
//! | bytes of a file in one message | [`feed::MESSAGE_BYTES`] | well below the 4 MiB that a peer takes |
//! | messages on their way to the connection | [`feed::MESSAGES_AHEAD`] | reading goes on while one is sent |
//! | names of the directories that a walk is inside of | the directories themselves | they are sorted |
//! | pieces on their way to the disk | [`fetch::PIECES_AHEAD`] | the network goes on while one is written |
//! | headers of a tar archive in front of one entry | [`unpack::HEADER_BYTES_MAX`] | a hostile one would fill the memory |

pub mod feed;
pub mod fetch;
pub mod names;
pub mod place;
pub mod tree;
pub mod unpack;
