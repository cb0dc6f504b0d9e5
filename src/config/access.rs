//! Who may come in, by environment and file.

use std::path::Path;

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::BoolishValueParser;

use crate::secret::Secret;

/// What `--help` says of the password: it is never an argument, since all users of a machine can see those.
pub(super) const PASSWORD_HELP: &str = "Environment:\n  KV_PASSWORD, KV_PASSWORD_FILE  The password that nodes ask every client \
    and each other for, or a file with it\n                                 (its last line end does not count)";

const PASSWORD: &str = "KV_PASSWORD";
const PASSWORD_FILE: &str = "KV_PASSWORD_FILE";

#[derive(Debug, Clone, Args)]
pub struct AccessArgs {
    /// Listen on more than loopback although there is no password (KV_PASSWORD, KV_PASSWORD_FILE): everybody who reaches the port
    /// may read, write and delete everything
    #[arg(long, env = "KV_INSECURE_NO_AUTH", value_parser = BoolishValueParser::new())]
    pub insecure_no_auth: bool,
}

/// The password, if there is one.
///
/// # Errors
/// If it is empty, or its file can't be read.
pub(super) fn secret() -> anyhow::Result<Option<Secret>> {
    Ok(password_bytes()?.map(|password| Secret::new(&password)))
}

/// The same, for those who must say it.
///
/// # Errors
/// As `secret`; or if it is not text.
pub(super) fn password() -> anyhow::Result<Option<String>> {
    let text = |password| String::from_utf8(password).context("the password is not text");
    password_bytes()?.map(text).transpose()
}

fn password_bytes() -> anyhow::Result<Option<Vec<u8>>> {
    let (password, source) = match (std::env::var_os(PASSWORD), std::env::var_os(PASSWORD_FILE)) {
        (Some(password), _) => (password.into_encoded_bytes(), PASSWORD),
        (None, Some(file)) => (read(Path::new(&file))?, PASSWORD_FILE),
        (None, None) => return Ok(None),
    };
    ensure!(!password.is_empty(), "the password of {source} is empty: leave {source} out to have none");
    Ok(Some(password))
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let password =
        std::fs::read(file).with_context(|| format!("{PASSWORD_FILE} `{}` can't be read", file.display()))?;
    let line = password.strip_suffix(b"\n").unwrap_or(&password);
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_the_password_with_or_without_a_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        for (text, password) in [("se cret", "se cret"), ("secret\n", "secret"), ("secret \r\n", "secret "), ("\n", "")]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read(&file).unwrap(), password.as_bytes());
        }
        let error = read(&directory.path().join("none")).unwrap_err();
        assert!(format!("{error:#}").contains("KV_PASSWORD_FILE"), "{error:#}");
    }
}
