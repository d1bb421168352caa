//! Numbered sections of bytes in one buffer: all that a token's layers recorded.

/// Sections one after the other. An empty one was not recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Packed {
    /// Where each section ends.
    ends: Box<[u32]>,
    bytes: Box<[u8]>,
}

impl Packed {
    /// `n` sections, each as `put(section, out)` appends it.
    pub(super) fn build(n: usize, mut put: impl FnMut(usize, &mut Vec<u8>)) -> Self {
        let mut bytes = Vec::new();
        let ends = (0..n).map(|section| {
            put(section, &mut bytes);
            u32::try_from(bytes.len()).expect("a token's layers take less than 4 GiB")
        });
        Self {
            ends: ends.collect(),
            bytes: bytes.into(),
        }
    }

    /// From what a file held; `None` if the ends do not fit the bytes.
    pub(super) fn from_parts(ends: Vec<u32>, bytes: Vec<u8>) -> Option<Self> {
        let last = ends.last().copied().unwrap_or(0) as usize;
        (ends.is_sorted() && last == bytes.len()).then(|| Self {
            ends: ends.into(),
            bytes: bytes.into(),
        })
    }

    /// The bytes of a section, if it was recorded.
    pub(super) fn get(&self, section: usize) -> Option<&[u8]> {
        let end = *self.ends.get(section)? as usize;
        let start = match section {
            0 => 0,
            _ => self.ends[section - 1] as usize,
        };
        (start < end).then(|| &self.bytes[start..end])
    }

    pub(super) fn ends(&self) -> &[u32] {
        &self.ends
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panic")]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back_and_empty_ones_are_none() {
        let parts: [&[u8]; 4] = [b"", b"ab", b"", b"c"];
        let packed = Packed::build(4, |section, out| out.extend(parts[section]));
        assert_eq!(packed.get(0), None);
        assert_eq!(packed.get(1), Some(&b"ab"[..]));
        assert_eq!(packed.get(2), None);
        assert_eq!(packed.get(3), Some(&b"c"[..]));
        assert_eq!(packed.get(4), None);
        let (ends, bytes) = (packed.ends().to_vec(), packed.bytes().to_vec());
        assert_eq!(Packed::from_parts(ends, bytes), Some(packed));
        assert_eq!(Packed::from_parts(vec![2, 1], vec![0]), None);
        assert_eq!(Packed::from_parts(vec![2], vec![0]), None);
        assert_eq!(Packed::from_parts(vec![], vec![0]), None);
        assert_eq!(Packed::from_parts(vec![], vec![]), Some(Packed::default()));
    }
}
