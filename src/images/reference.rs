//! Names of images as `distribution/reference` reads them: which are valid, their parts, and the tag where none is named.

const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of the default registry, of old.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// `RepositoryNameTotalLengthMax`.
const MAX_PATH_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;
/// Hex digits of a digest at least.
const MIN_DIGEST_DIGITS: usize = 32;

/// `busybox` → `busybox:latest`; errors are worded as the library's.
pub(crate) fn with_default_tag(image: &str) -> Result<String, String> {
    if image.len() == 64 && image.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"));
    }
    let (registry, rest) = split(image);
    let remote = rest.split(':').next().unwrap_or_default();
    if remote.chars().any(char::is_uppercase) {
        return Err(format!("invalid reference format: repository name ({remote}) must be lowercase"));
    }
    let (name, digest) = match rest.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (rest.as_str(), None),
    };
    let (path, tag) = match name.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (name, None),
    };
    let is_valid = is_registry(registry) && path.split('/').all(is_component) && tag.is_none_or(is_tag);
    if !is_valid {
        return Err("invalid reference format".to_owned());
    }
    digest.map_or(Ok(()), check_digest)?;
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("repository name must not be more than {MAX_PATH_BYTES} characters"));
    }
    Ok(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// Registry and path in full, without tag and digest, as credential providers are asked for it.
pub(crate) fn repository_of(image: &str) -> String {
    let (registry, rest) = split(image);
    format!("{registry}/{}", rest.split([':', '@']).next().unwrap_or_default())
}

/// The registry, and what follows it: of the default one, whose official images need no folder, in full.
fn split(image: &str) -> (&str, String) {
    let (registry, rest) = match image.split_once('/') {
        Some((LEGACY_REGISTRY, rest)) => (DEFAULT_REGISTRY, rest),
        // No folder has upper case letters.
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        Some(_) | None => (DEFAULT_REGISTRY, image),
    };
    let official = registry == DEFAULT_REGISTRY && !rest.contains('/');
    (registry, if official { format!("library/{rest}") } else { rest.to_owned() })
}

/// A host name or address, perhaps with a port.
fn is_registry(text: &str) -> bool {
    let address_end = text.strip_prefix('[').and_then(|inner| inner.find(']'));
    let (host, port) = match address_end {
        Some(end) => (&text[..end + 2], &text[end + 2..]),
        None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let host_fits = match host.strip_prefix('[') {
        Some(inner) => inner.len() > 1 && inner.bytes().all(|byte| byte.is_ascii_hexdigit() || b":]".contains(&byte)),
        None => host.split('.').all(label),
    };
    let number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    host_fits && (port.is_empty() || port.strip_prefix(':').is_some_and(number))
}

/// Lower case letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separators = text.split(|c: char| u8::try_from(c).is_ok_and(is_word)).filter(|between| !between.is_empty());
    let ends_in_words = text.bytes().next().is_some_and(is_word) && text.bytes().next_back().is_some_and(is_word);
    ends_in_words && separators.all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let inner = |byte: u8| is_word(byte) || byte == b'.' || byte == b'-';
    text.len() <= MAX_TAG_BYTES && text.bytes().next().is_some_and(is_word) && text.bytes().all(inner)
}

fn check_digest(text: &str) -> Result<(), String> {
    let invalid = || "invalid reference format".to_owned();
    let (algorithm, digits) = text.split_once(':').ok_or_else(invalid)?;
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !algorithm.split(['-', '_', '+', '.']).all(part) || !is_hex || digits.len() < MIN_DIGEST_DIGITS {
        return Err(invalid());
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    match digits.len() == length {
        true if digits.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Err("invalid checksum digest format".to_owned())
        }
        true => Ok(()),
        false => Err("invalid checksum digest length".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_named_in_full() {
        for (reference, registry, expected) in [
            ("busybox:latest", "docker.io", "docker.io/library/busybox"),
            ("docker.io/library/busybox:1", "docker.io", "docker.io/library/busybox"),
            ("docker.io/busybox", "docker.io", "docker.io/library/busybox"),
            ("index.docker.io/team/app", "docker.io", "docker.io/team/app"),
            ("team/app@sha256:00", "docker.io", "docker.io/team/app"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000", "127.0.0.1:5000/app"),
            ("localhost/app", "localhost", "localhost/app"),
            ("r.io/a/b:1@sha256:00", "r.io", "r.io/a/b"),
            ("Host/app:1", "Host", "Host/app"),
        ] {
            assert_eq!((split(reference).0, repository_of(reference).as_str()), (registry, expected));
        }
    }

    #[test]
    fn image_names_get_the_default_tag_or_the_reason_why_not() {
        let digest = "a".repeat(64);
        let lower = |name: &str| format!("invalid reference format: repository name ({name}) must be lowercase");
        let same = |name: &str| (name.to_owned(), name.to_owned());
        let with = |name: &str, why: &str| (name.to_owned(), why.to_owned());
        let invalid = |name: &str| with(name, "invalid reference format");
        for (image, expected) in [
            with("busybox", "busybox:latest"),
            with("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            same("127.0.0.1:1/none:1"),
            same("[2001:db8::1]:5000/a/b:V1.2_3-x"),
            same("a__b/c---d.e_f:1"),
            same("Host/app:1"),
            same(&format!("a/b@sha256:{digest}")),
            same(&format!("r.io/a/b:1@sha256:{digest}")),
            with("Bad_Name::UP", &lower("library/Bad_Name")),
            with("UPPER/Case:1", &lower("Case")),
            with("team/App", &lower("team/App")),
            invalid("x y"),
            invalid("a::b"),
            invalid("a:"),
            invalid("a/"),
            invalid("/a"),
            invalid("a//b"),
            invalid("a___b"),
            invalid("-a"),
            invalid("a:.1"),
            invalid("a@sha256:00"),
            invalid(&format!("a@256:{digest}")),
            invalid("r.io:port/a"),
            with(&format!("a@md5:{}", "0".repeat(32)), "unsupported digest algorithm"),
            with(&format!("a@sha256:{}", "0".repeat(63)), "invalid checksum digest length"),
            with(&format!("a@sha256:{}", "A".repeat(64)), "invalid checksum digest format"),
            with(&"a".repeat(300), "repository name must not be more than 255 characters"),
            with(&digest, &format!("invalid repository name ({digest}), cannot specify 64-byte hexadecimal strings")),
        ] {
            assert_eq!(with_default_tag(&image).unwrap_or_else(|why| why), expected, "{image}");
        }
    }
}
