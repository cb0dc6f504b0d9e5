//! Sizes and counts on the command line.

use bytesize::ByteSize;

use crate::store::MEMORY_BYTES_MIN;

/// `--max-memory`.
pub(super) fn memory(s: &str) -> Result<usize, String> {
    let size: ByteSize = s.parse().map_err(|_| "expected a size, as in `512MiB` or `2GiB`".to_owned())?;
    let bytes = usize::try_from(size.as_u64()).map_err(|_| "more than this machine can address".to_owned())?;
    let least = ByteSize(MEMORY_BYTES_MIN as u64);
    if bytes < MEMORY_BYTES_MIN {
        Err(format!("expected at least {least}: four of the largest records"))
    } else {
        Ok(bytes)
    }
}

/// `--journal-max`.
pub(super) fn journal(s: &str) -> Result<u64, String> {
    const MIN: ByteSize = ByteSize::mib(128);
    let size: ByteSize = s.parse().map_err(|_| "expected a size, as in `512MiB` or `4GiB`".to_owned())?;
    if size < MIN { Err(format!("expected at least {MIN}")) } else { Ok(size.as_u64()) }
}

/// CAPACITY.
pub(super) fn capacity(s: &str) -> Result<usize, String> {
    const MAX: usize = 1 << 31; // handles are 32 bits
    match s.replace('_', "").parse() {
        Ok(0) => Err("expected at least 1 record".to_owned()),
        Ok(n) if n > MAX => Err(format!("expected at most {MAX} records")),
        Ok(n) => Ok(n),
        Err(_) => Err("expected a number of records, at least 1".to_owned()),
    }
}
