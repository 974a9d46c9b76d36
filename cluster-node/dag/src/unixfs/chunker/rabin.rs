//! Cutting by a Rabin fingerprint: where the remainder of the last sixteen bytes, taken as a polynomial over GF(2), by a
//! fixed polynomial ends in as many zeros as the average size asks for.
//!
//! Constants and order of steps are those of github.com/whyrusleeping/chunker with boxo's polynomial, since they decide
//! about CIDs: the fingerprint starts anew with each chunk, is fed a single 1, and sees only the bytes from sixteen
//! before the shortest chunk on.

use std::sync::LazyLock;

/// The irreducible polynomial of degree 53 that Kubo uses, a bit per coefficient.
const POLYNOMIAL: u64 = 17_437_180_132_763_653;
const DEGREE: u32 = 53;

/// Bytes that the fingerprint covers.
const WINDOW: usize = 16;

#[derive(Debug)]
pub(super) struct Rabin {
    min: usize,
    max: usize,
    mask: u64,
    /// Bytes of the chunk so far.
    length: usize,
    window: [u8; WINDOW],
    /// The oldest byte in the window.
    oldest: usize,
    fingerprint: u64,
}

/// What a byte adds to a fingerprint, by its value.
struct Tables {
    /// Taken away when the byte leaves the window.
    leave: [u64; 256],
    /// Brings a fingerprint, moved on by a byte, below the degree again, by what was moved out.
    reduce: [u64; 256],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables {
        leave: [0; 256],
        reduce: [0; 256],
    };
    for byte in 0..256u64 {
        let place = byte as usize;
        tables.leave[place] = (1..WINDOW).fold(remainder(byte), |hash, _| remainder(hash << 8));
        tables.reduce[place] = remainder(byte << DEGREE) | byte << DEGREE;
    }
    tables
});

/// The remainder of a polynomial by [`POLYNOMIAL`].
fn remainder(mut value: u64) -> u64 {
    while value >> DEGREE != 0 {
        let excess = value.ilog2() - DEGREE;
        value ^= POLYNOMIAL << excess;
    }
    value
}

impl Rabin {
    pub(super) fn new(min: u32, avg: u32, max: u32) -> Self {
        let mut rabin = Self {
            min: min as usize,
            max: max as usize,
            mask: (1 << avg.max(1).ilog2()) - 1,
            length: 0,
            window: [0; WINDOW],
            oldest: 0,
            fingerprint: 0,
        };
        rabin.restart();
        rabin
    }

    fn restart(&mut self) {
        self.length = 0;
        self.window = [0; WINDOW];
        self.oldest = 0;
        self.fingerprint = 0;
        self.slide(1, &TABLES);
    }

    fn slide(&mut self, byte: u8, tables: &Tables) {
        let leaving = std::mem::replace(&mut self.window[self.oldest], byte);
        self.oldest = (self.oldest + 1) % WINDOW;
        self.fingerprint ^= tables.leave[usize::from(leaving)];
        let moved_out = (self.fingerprint >> (DEGREE - 8)) as usize & 0xff;
        self.fingerprint = (self.fingerprint << 8 | u64::from(byte)) ^ tables.reduce[moved_out];
    }

    /// How many of these bytes end the chunk; none when it takes all of them and goes on.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> Option<usize> {
        let unseen = (self.min - WINDOW).saturating_sub(self.length).min(bytes.len());
        self.length += unseen;
        let tables = &*TABLES;
        for (place, byte) in bytes.iter().enumerate().skip(unseen) {
            self.slide(*byte, tables);
            self.length += 1;
            let here = self.length >= self.min && self.fingerprint & self.mask == 0;
            if here || self.length >= self.max {
                self.restart();
                return Some(place + 1);
            }
        }
        None
    }
}
