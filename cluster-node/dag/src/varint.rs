//! Variable-length integers: seven bits per byte, lowest first, as protobuf, multiformats and CAR write them.

/// Longest encoding of a 64-bit number, in bytes.
pub(crate) const BYTES_MAX: usize = 10;

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Varint {
    /// This number, which takes so many bytes.
    Whole(u64, usize),
    /// The bytes end inside the number.
    Cut,
    /// It does not fit into 64 bits.
    TooLong,
}

/// Reads a number. Encodings that are longer than needed are taken, as Kubo's protobuf decoder takes them: two such
/// blocks have two CIDs anyway.
pub(crate) fn read(bytes: &[u8]) -> Varint {
    let mut value = 0u64;
    for (place, byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte holds the 64th bit and nothing else.
        if place == BYTES_MAX - 1 && *byte > 1 {
            return Varint::TooLong;
        }
        value |= bits << (7 * place);
        if byte & 0x80 == 0 {
            return Varint::Whole(value, place + 1);
        }
    }
    if bytes.len() < BYTES_MAX {
        Varint::Cut
    } else {
        Varint::TooLong
    }
}

/// Appends a number in its shortest encoding.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Bytes that [`write()`] appends.
pub(crate) fn length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value: u64, tail: Vec<u8>) {
            let mut out = Vec::new();
            write(&mut out, value);
            let written = out.len();
            prop_assert_eq!(length(value), written);
            for cut in 0..written {
                prop_assert_eq!(read(&out[..cut]), Varint::Cut);
            }
            out.extend_from_slice(&tail);
            prop_assert_eq!(read(&out), Varint::Whole(value, written));
        }
    }

    #[test]
    fn the_sixty_fifth_bit_is_refused() {
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Varint::Whole(u64::MAX, 10)
        );
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Varint::TooLong
        );
        assert_eq!(read(&[0x80; 11]), Varint::TooLong);
        assert_eq!(read(&[0x80, 0x00]), Varint::Whole(0, 2));
    }
}
