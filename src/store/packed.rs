//! An entry as the bytes of a block: ten of head, the expiry if there is one, key and value. The block's length tells the value's.

use super::arena::BLOCK_BYTES_MAX;
use super::entry::{Content, Entry, Flags};
use crate::record::{Epoch, Lsn, Timestamp, Version};

/// Flags, the length of the key, the epoch's place among [`Epochs`], and the position in the log: of that, six bytes are enough for
/// nine years of a million writes a second.
const HEAD_BYTES: usize = 10;
const EXPIRY_BYTES: usize = 8;
/// Longer contents are not packed, but shared with whoever reads them.
const CONTENT_BYTES_MAX: usize = 1024;
const _: () = assert!(HEAD_BYTES + EXPIRY_BYTES + CONTENT_BYTES_MAX <= BLOCK_BYTES_MAX);
/// More are not looked through at every write.
const EPOCHS_MAX: usize = 1024;
/// In the byte of the flags: an expiry follows the head.
const MORTAL: u8 = 1 << 7;

/// Whether an entry with so many bytes of key, and of key and value, is too long to be packed.
pub(super) const fn is_long(key_bytes: usize, content_bytes: usize) -> bool {
    key_bytes > u8::MAX as usize || content_bytes > CONTENT_BYTES_MAX
}

/// The epochs of a slab's versions: few, as each is a change of who owns what. An entry has the place of its own.
#[derive(Debug, Default)]
pub(super) struct Epochs(Vec<Epoch>);

impl Epochs {
    /// Where an epoch is; `None` if there is no place left for it.
    fn place(&mut self, epoch: Epoch) -> Option<u16> {
        let known = self.0.iter().rposition(|known| *known == epoch);
        let place = known.unwrap_or(self.0.len());
        if known.is_none() && place < EPOCHS_MAX {
            self.0.push(epoch);
        }
        (place < EPOCHS_MAX).then_some(place as u16) // so it fits
    }

    fn get(&self, place: u16) -> Epoch {
        self.0.get(usize::from(place)).copied().unwrap_or_default()
    }
}

/// The head of an entry that can be packed, and the length of the block for it.
pub(super) struct Packing {
    head: [u8; HEAD_BYTES],
    pub len: usize,
}

impl Packing {
    /// `None` if the entry is too long, or has a version with numbers beyond the ordinary.
    pub fn of(entry: &Entry<'_>, epochs: &mut Epochs) -> Option<Self> {
        let content_len = entry.key.len() + entry.value_len();
        if is_long(entry.key.len(), content_len) {
            return None;
        }
        let key_len = entry.key.len() as u8; // so it fits
        let [l0, l1, l2, l3, l4, l5, 0, 0] = entry.version.lsn.0.to_le_bytes() else { return None };
        let [e0, e1] = epochs.place(entry.version.epoch)?.to_le_bytes();
        let (mortal, expiry_len) = if entry.expires_at.is_some() { (MORTAL, EXPIRY_BYTES) } else { (0, 0) };
        let head = [to_bits(entry.flags) | mortal, key_len, e0, e1, l0, l1, l2, l3, l4, l5];
        Some(Self { head, len: HEAD_BYTES + expiry_len + content_len })
    }

    /// Writes the entry into a block of this length.
    pub fn write(&self, entry: &Entry<'_>, block: &mut [u8]) {
        let expiry = entry.expires_at.map(|Timestamp(at)| at.to_le_bytes());
        let expiry = expiry.as_ref().map_or(&[][..], |at| at);
        let mut rest = block;
        for part in [&self.head[..], expiry, entry.key, entry.value.as_bytes()] {
            let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { return };
            place.copy_from_slice(part);
            rest = behind;
        }
    }
}

/// What [`Packing::write`] wrote; `None` if it did not write this.
pub(super) fn read<'a>(block: &'a [u8], epochs: &Epochs) -> Option<Entry<'a>> {
    let (head, mut content) = block.split_first_chunk()?;
    let [bits, key_len, e0, e1, l0, l1, l2, l3, l4, l5]: [u8; HEAD_BYTES] = *head;
    let mut expires_at = None;
    if bits & MORTAL != 0 {
        let (at, behind) = content.split_first_chunk()?;
        (expires_at, content) = (Some(Timestamp(u64::from_le_bytes(*at))), behind);
    }
    let (key, value) = content.split_at_checked(usize::from(key_len))?;
    let version = Version {
        epoch: epochs.get(u16::from_le_bytes([e0, e1])),
        lsn: Lsn(u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0])),
    };
    Some(Entry { key, value: Content::Copied(value), version, expires_at, flags: from_bits(bits) })
}

/// Changes the flags of what was written.
pub(super) fn set_flags(block: &mut [u8], flags: Flags) {
    if let Some(bits) = block.first_mut() {
        *bits = *bits & MORTAL | to_bits(flags);
    }
}

fn to_bits(flags: Flags) -> u8 {
    let Flags { tombstone, clean, leaving, due, queued, flushing, in_tier } = flags;
    let flags = [in_tier, flushing, queued, due, leaving, clean, tombstone];
    flags.into_iter().fold(0, |bits, flag| bits << 1 | u8::from(flag))
}

fn from_bits(bits: u8) -> Flags {
    let is = |nth: u8| bits & 1 << nth != 0;
    Flags { tombstone: is(0), clean: is(1), leaving: is(2), due: is(3), queued: is(4), flushing: is(5), in_tier: is(6) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Key, Record, Value};

    fn record(key_len: usize, value_len: usize, version: (u64, u64), expires_at: Option<u64>) -> Record {
        Record {
            key: Key::new(vec![b'k'; key_len]).unwrap(),
            value: Value::new(vec![b'v'; value_len]).unwrap(),
            version: Version::new(version.0, version.1),
            expires_at: expires_at.map(Timestamp),
        }
    }

    fn pack(record: &Record, flags: Flags, epochs: &mut Epochs) -> Option<Vec<u8>> {
        let entry = Entry::of(record, flags);
        let packing = Packing::of(&entry, epochs)?;
        let mut block = vec![0; packing.len];
        packing.write(&entry, &mut block);
        Some(block)
    }

    #[test]
    fn what_is_packed_is_read_as_it_was() {
        let mut epochs = Epochs::default();
        let flags = [Flags::default(), from_bits(0b101_0101), from_bits(0b010_1010), from_bits(0b111_1111)];
        for (key_len, value_len) in [(1, 0), (16, 100), (255, 769), (1, 1023)] {
            for (version, expires_at) in
                [((1, 1), None), ((u64::MAX, 7), Some(0)), ((3, (1 << 48) - 1), Some(u64::MAX))]
            {
                for flags in flags {
                    let record = record(key_len, value_len, version, expires_at);
                    let mut block = pack(&record, flags, &mut epochs).unwrap();
                    let entry = read(&block, &epochs).unwrap();
                    assert_eq!((entry.key().unwrap(), entry.value().unwrap()), (record.key, record.value));
                    let known = (entry.version, entry.expires_at, entry.flags);
                    assert_eq!(known, (record.version, record.expires_at, flags));
                    set_flags(&mut block, Flags { tombstone: true, ..Flags::default() });
                    let entry = read(&block, &epochs).unwrap();
                    assert_eq!(entry.expires_at, record.expires_at);
                    assert_eq!(entry.flags, Flags { tombstone: true, ..Flags::default() });
                }
            }
        }
        assert_eq!(epochs.0.len(), 3);
    }

    #[test]
    fn an_ordinary_record_costs_ten_bytes_beside_key_and_value() {
        let block = pack(&record(16, 100, (1, 1), None), Flags::default(), &mut Epochs::default()).unwrap();
        assert_eq!(block.len(), 16 + 100 + 10);
    }

    #[test]
    fn what_is_beyond_the_ordinary_is_not_packed() {
        let mut epochs = Epochs::default();
        for (key_len, value_len, lsn) in [(256, 0, 1), (16, 1009, 1), (16, 100, 1 << 48)] {
            assert!(pack(&record(key_len, value_len, (1, lsn), None), Flags::default(), &mut epochs).is_none());
        }
        let many = EPOCHS_MAX as u64;
        assert!((0..many).all(|epoch| epochs.place(Epoch(epoch)).is_some()));
        assert_eq!((epochs.place(Epoch(many)), epochs.place(Epoch(9))), (None, Some(9)));
    }

    #[test]
    fn what_was_not_written_is_not_read() {
        let block = pack(&record(16, 100, (1, 1), Some(5)), Flags::default(), &mut Epochs::default()).unwrap();
        for len in [0, 9, 17, 33] {
            assert!(read(&block[..len], &Epochs::default()).is_none(), "{len} bytes");
        }
    }
}
