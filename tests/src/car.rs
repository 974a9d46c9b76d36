//! CAR files as the crates iroh-car and rs-car make and read them. What @ipld/car makes of them: [`crate::helia::car`].
//!
//! These crates are no dev-dependencies: they switch features of `serde` and `cid` on, and so all that uses those would be
//! built twice, once for programs and once for tests.

use anyhow::Context;
use node_core::Cid;

/// Blocks in the order of a file.
pub type Blocks = Vec<(Cid, Vec<u8>)>;

/// A file of version 1 as iroh-car makes it. Nothing is checked, so it may be of any kind of wrong.
pub async fn iroh_make(roots: &[Cid], blocks: &Blocks) -> anyhow::Result<Vec<u8>> {
    let roots = roots.iter().map(to_wire).collect::<anyhow::Result<_>>()?;
    let mut file = Vec::new();
    let mut writer = iroh_car::CarWriter::new(iroh_car::CarHeader::new_v1(roots), &mut file);
    writer.write_header().await?;
    for (cid, bytes) in blocks {
        writer.write(to_wire(cid)?, bytes).await?;
    }
    writer.finish().await?;
    Ok(file)
}

/// Roots and blocks of a file of version 1, as iroh-car reads it. It checks no hashes.
pub async fn iroh_read(file: &[u8]) -> anyhow::Result<(Vec<Cid>, Blocks)> {
    let mut reader = iroh_car::CarReader::new(file).await?;
    let roots = reader
        .header()
        .roots()
        .iter()
        .map(from_wire)
        .collect::<anyhow::Result<_>>()?;
    let mut blocks = Vec::new();
    while let Some((cid, bytes)) = reader.next_block().await? {
        blocks.push((from_wire(&cid)?, bytes));
    }
    Ok((roots, blocks))
}

/// Roots and blocks of a file of version 1 or 2, as rs-car reads it. It knows sha2-256 and blake2b-256, and checks them.
pub async fn rs_read(file: &[u8]) -> anyhow::Result<(Vec<Cid>, Blocks)> {
    let (blocks, header) = rs_car::car_read_all(&mut futures::io::Cursor::new(file), true).await?;
    let roots = header.roots.iter().map(from_wire).collect::<anyhow::Result<_>>()?;
    let blocks = blocks
        .into_iter()
        .map(|(cid, bytes)| Ok((from_wire(&cid)?, bytes)))
        .collect::<anyhow::Result<_>>()?;
    Ok((roots, blocks))
}

fn to_wire(cid: &Cid) -> anyhow::Result<cid::Cid> {
    cid::Cid::try_from(cid.to_bytes()).context("a CID with a digest of at most 64 bytes")
}

fn from_wire(cid: &cid::Cid) -> anyhow::Result<Cid> {
    Cid::from_bytes(&cid.to_bytes()).context("a CID that is known here")
}
