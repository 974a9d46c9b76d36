//! Passwords: hashed with Argon2id, so that who reads the state of the cluster still has to guess each for a long time.
//!
//! Blocking: a hash takes some ten milliseconds of a core and 19 MiB, which is what makes guessing dear.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use multibase::Base;

/// Memory of one hash. With two passes and one lane it is the first of the settings that OWASP's Password Storage Cheat
/// Sheet names for Argon2id; more would leave less for a flood of wrong passwords to be taken in.
pub const HASH_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const GENERATED_BYTES: usize = 18;

/// Longest password. More than any person or program chooses, and hashed in no time.
pub const PASSWORD_BYTES_MAX: usize = 1_024;

fn argon2() -> Argon2<'static> {
    let params = Params::new(HASH_KIB, PASSES, LANES, None).expect("the numbers are within the algorithm's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The hash of a password under a new salt, in PHC form: it names its algorithm and its costs, so that they can be raised
/// later without making older hashes unreadable. None when there is no memory for it.
pub fn hash_password(password: &str) -> Option<String> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let hash = argon2().hash_password_with_salt(password.as_bytes(), &salt).ok()?;
    Some(hash.to_string())
}

/// Whether the password is the one that was hashed. Compares in constant time; a hash that can't be read fits none.
pub fn verify_password(password: &str, hash: &str) -> bool {
    password.len() <= PASSWORD_BYTES_MAX && argon2().verify_password(password.as_bytes(), hash).is_ok()
}

/// A new random password: 144 bits as 24 or 25 letters and digits, none of which look alike.
pub fn generate_password() -> String {
    let bytes: [u8; GENERATED_BYTES] = rand::random();
    Base::Base58Btc.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_hash_alone() {
        let hash = hash_password("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hash.len() <= 128, "{hash}");
        assert!(verify_password("correct horse", &hash));
        assert!(!verify_password("correct horsf", &hash));
        assert!(!verify_password("", &hash));
        assert!(!verify_password(&"x".repeat(PASSWORD_BYTES_MAX + 1), &hash));
        let again = hash_password("correct horse").unwrap();
        assert_ne!(hash, again, "each has a salt of its own");
    }

    #[test]
    fn the_costs_are_those_of_the_hash() {
        assert!(!verify_password("password", "nonsense"));
        assert!(!verify_password("password", "$argon2id$v=19$m=19456,t=2,p=1$"));
        let cheap = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(64, 1, 1, None).unwrap(),
        );
        let hash = cheap
            .hash_password_with_salt(b"password", b"somesaltsomesalt")
            .unwrap()
            .to_string();
        assert!(hash.contains("m=64,t=1,p=1"), "{hash}");
        assert!(verify_password("password", &hash));
    }

    #[test]
    fn generated_ones_are_long_and_differ() {
        let (one, other) = (generate_password(), generate_password());
        assert_ne!(one, other);
        assert!(
            one.len() >= 20 && one.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{one}"
        );
    }
}
