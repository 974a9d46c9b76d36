//! Properties of applying: whatever is asked, in whatever order, the state keeps its invariants, and every peer that
//! applies the same log has the same rows.

mod machine;
mod members;
mod order;
mod pins;
mod random;
mod replace;
mod requests;
