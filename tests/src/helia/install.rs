//! Helia and @ipld/car, with a Node.js that runs them.

use std::sync::OnceLock;

use crate::npm::Tools;

/// The scripts, which find the packages in the folder above theirs.
const SCRIPTS: [&str; 4] = ["car.mjs", "content.mjs", "peer.mjs", "walk.mjs"];

/// Helia, @ipld/car and a Node.js that runs them, installed when they are missing. That takes a minute or two, once, and
/// needs `npm`.
pub fn tools() -> anyhow::Result<Tools> {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| Tools::install("helia", &SCRIPTS).map_err(|error| format!("{error:#}")));
    tools.clone().map_err(|error| anyhow::anyhow!("Helia: {error}"))
}
