//! The join token: whoever shows it may become any workload of the trust domain. The file is looked at again while the process runs:
//! another token in it takes the place of the one of before, for every call from then on. What cannot be a token is refused.

use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::disk::{self, Secrecy};
use crate::seed;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// Between two looks at the file.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The digest of the token; the token itself is not kept.
#[derive(Clone)]
pub(crate) struct JoinToken {
    digest: Arc<RwLock<[u8; 32]>>,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken")
    }
}

impl JoinToken {
    /// 96 bits in base64: below that, a token could be guessed.
    const LENGTH_MIN: usize = 16;
    const LENGTH_MAX: usize = 1_024;

    /// Reads the token from `path`, or makes one there when the file does not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, TokenError> {
        let fault = |source| TokenError::Io { path: path.to_owned(), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = base64url(&seed::bytes::<32>()?);
                disk::replace(path, text.as_bytes(), Secrecy::Private).map_err(fault)?;
                text
            }
            Err(error) => return Err(fault(error)),
        };
        Ok(Self { digest: Arc::new(RwLock::new(digest(&text, path)?)) })
    }

    /// Takes up what the file holds now; says whether that is another token.
    fn renew(&self, path: &Path) -> Result<bool, TokenError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| TokenError::Io { path: path.to_owned(), source })?;
        let fresh = digest(&text, path)?;
        Ok(std::mem::replace(&mut *self.digest.write(), fresh) != fresh)
    }

    /// Follows the file until the stop signal.
    pub(crate) async fn follow(self, path: PathBuf, clock: Clock, metrics: Arc<Metrics>, tasks: Tasks) {
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                () = tasks.stopped() => return,
                () = clock.sleep(LOOK_INTERVAL) => {}
            }
            match self.renew(&path) {
                Ok(is_other) => {
                    told = None;
                    if is_other {
                        metrics.join_token_replaced();
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if told.as_ref() != Some(&why) {
                        metrics.join_token_refused(&error);
                        told = Some(why);
                    }
                }
            }
        }
    }

    /// Whether `shown` is the token. Takes equally long for every wrong one.
    pub(crate) fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        let ours = *self.digest.read();
        let differing = ours.iter().zip(shown).fold(0, |bits, (ours, theirs)| bits | (ours ^ theirs));
        black_box(differing) == 0
    }
}

fn digest(text: &str, path: &Path) -> Result<[u8; 32], TokenError> {
    let token = text.trim();
    let fits = (JoinToken::LENGTH_MIN..=JoinToken::LENGTH_MAX).contains(&token.len());
    if fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Sha256::digest(token).into())
    } else {
        Err(TokenError::Unusable { path: path.to_owned() })
    }
}

/// RFC 4648 section 5 without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            let index = bits >> (18 - 6 * place) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// Why there is no join token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The file cannot be read or written.
    #[error("the join token {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its text cannot be a token.
    #[error("{} must hold one join token of 16 to 1024 printable characters; remove it to have one made", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
    },
    /// There is no randomness to make one.
    #[error(transparent)]
    NoEntropy(#[from] seed::NoEntropy),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_made_once_for_the_owner_alone_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        JoinToken::open(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 43);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let token = JoinToken::open(&path).unwrap();
        for (shown, expected) in [
            (text.clone(), true),
            (String::new(), false),
            (text[..42].to_owned(), false),
            (format!("{text}A"), false),
            (text.to_ascii_uppercase(), false),
        ] {
            assert_eq!(token.is(&shown), expected, "{shown}");
        }
    }

    #[test]
    fn another_token_takes_the_place_of_the_one_of_before_and_nonsense_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        std::fs::write(&path, "the-first-of-all-tokens").unwrap();
        let token = JoinToken::open(&path).unwrap();
        let copy = token.clone();
        assert!(!token.renew(&path).unwrap());
        std::fs::write(&path, "short").unwrap();
        token.renew(&path).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        token.renew(&path).unwrap_err();
        assert!(copy.is("the-first-of-all-tokens"));
        std::fs::write(&path, "the-second-of-all-tokens").unwrap();
        assert!(token.renew(&path).unwrap());
        assert!(copy.is("the-second-of-all-tokens") && !copy.is("the-first-of-all-tokens"));
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("join-token");
        for text in ["", "\n", "short", "two words are no token", "sixteen letters é", &"a".repeat(1_025)] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(JoinToken::open(&path), Err(TokenError::Unusable { .. })), "{text:?}");
        }
        std::fs::write(&path, "written-by-a-person\n").unwrap();
        assert!(JoinToken::open(&path).unwrap().is("written-by-a-person"));
    }

    #[test]
    fn base64url_follows_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
    }
}
