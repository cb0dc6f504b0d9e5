//! CRC-16/XMODEM, eight bytes at a time (slicing: Kounavis and Berry, "Novel Table Lookup-Based Algorithms for High-Performance CRC
//! Generation", 2008).

const POLYNOMIAL: u16 = 0x1021;
const SLICES: usize = 8;

/// For each byte, what it makes of a checksum when so many more bytes follow it.
static TABLES: [[u16; 256]; SLICES] = tables();

#[expect(clippy::indexing_slicing, reason = "at compile time")]
const fn tables() -> [[u16; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = crc << 1 ^ if crc >> 15 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut following = 1;
    while following < SLICES {
        byte = 0;
        while byte < 256 {
            let crc = tables[following - 1][byte];
            tables[following][byte] = crc << 8 ^ tables[0][(crc >> 8) as usize];
            byte += 1;
        }
        following += 1;
    }
    tables
}

#[expect(clippy::indexing_slicing, reason = "a table has a place for every byte, and the number is one of those below")]
fn with_following<const N: usize>(byte: u8) -> u16 {
    TABLES[N][usize::from(byte)]
}

pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<SLICES>();
    let crc = chunks.iter().fold(0_u16, |crc, &[a, b, c, d, e, f, g, h]| {
        let [high, low] = crc.to_be_bytes();
        with_following::<7>(a ^ high)
            ^ with_following::<6>(b ^ low)
            ^ with_following::<5>(c)
            ^ with_following::<4>(d)
            ^ with_following::<3>(e)
            ^ with_following::<2>(f)
            ^ with_following::<1>(g)
            ^ with_following::<0>(h)
    });
    rest.iter().fold(crc, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        u16::from_be_bytes([low, 0]) ^ with_following::<0>(byte ^ high)
    })
}

#[cfg(test)]
mod tests {
    use crc::{CRC_16_XMODEM, Crc};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_the_checksum_of_that_name(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(checksum(&bytes), Crc::<u16>::new(&CRC_16_XMODEM).checksum(&bytes));
        }
    }
}
