//! Who may come in.

/// What a client must know. Open to everybody without a password.
#[derive(Clone, Default)]
pub struct Access {
    password: Option<Vec<u8>>,
}

impl Access {
    pub fn with_password(password: impl Into<Vec<u8>>) -> Self {
        Self { password: Some(password.into()) }
    }

    pub fn is_open(&self) -> bool {
        self.password.is_none()
    }

    /// There is one user, `default`. Takes as long for a wrong password as for the right one.
    pub fn admits(&self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let is_user = user.is_none_or(|user| user == b"default");
        let is_right = self.password.as_ref().is_none_or(|right| is_same(right, password));
        is_user && is_right
    }
}

/// Looks at every byte of what was given, whatever differs.
fn is_same(right: &[u8], given: &[u8]) -> bool {
    let differs = given.iter().zip(right.iter().cycle()).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differs) == 0 && right.len() == given.len()
}

/// Never shows the password.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_open() { "Access(open)" } else { "Access(by password)" })
    }
}

#[cfg(test)]
mod tests {
    use super::Access;

    #[test]
    fn only_the_right_password_of_the_right_user_is_admitted() {
        let access = Access::with_password("secret");
        assert!(access.admits(None, b"secret") && access.admits(Some(b"default"), b"secret"));
        for (user, password) in
            [(None, "secre"), (None, "secrets"), (None, ""), (Some("bob"), "secret"), (None, "secretsecret")]
        {
            assert!(!access.admits(user.map(str::as_bytes), password.as_bytes()), "{user:?} {password}");
        }
        assert!(Access::default().is_open() && Access::default().admits(None, b"anything"));
        assert!(!format!("{access:?}").contains("secret"));
    }
}
