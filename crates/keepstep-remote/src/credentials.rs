//! Amazon's own file of credentials, which its tools write. Google's and Azure's are read by the store's client.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// The keys of a profile.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    values: BTreeMap<String, String>,
}

impl Profile {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The profile that `AWS_PROFILE` names, or `default`, of `~/.aws/credentials` and `~/.aws/config`.
pub(crate) fn profile() -> Profile {
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let name = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let file = |variable_name: &str, default: &str| {
        let path = variable(variable_name).map_or_else(|| home.join(".aws").join(default), PathBuf::from);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let mut profile = parse(&file("AWS_CONFIG_FILE", "config"), &name);
    profile.values.extend(parse(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &name).values);
    profile
}

fn parse(text: &str, name: &str) -> Profile {
    let (mut profile, mut is_ours) = (Profile::default(), false);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_ours = section.trim().trim_start_matches("profile ").trim() == name;
        } else if let Some((key, value)) = line.split_once('=')
            && is_ours
            && !line.starts_with(['#', ';'])
        {
            profile.values.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    profile
}

/// Reports whether the environment has credentials for Amazon, or says how to get them.
pub(crate) fn in_environment() -> bool {
    let any = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    any.iter().any(|name| variable(name).is_some()) || variable("AWS_SKIP_SIGNATURE").is_some()
}

/// Reports whether this machine is Amazon's own, which gives credentials at a fixed address.
pub(crate) fn is_on_instance() -> bool {
    let address = SocketAddr::from(([169, 254, 169, 254], 80));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_s_keys_are_read() {
        let text = "[default]\naws_access_key_id = A\n# x = y\n[profile work]\nregion=eu-west-1\naws_access_key_id=B\n";
        assert_eq!(parse(text, "default").get("aws_access_key_id"), Some("A"));
        let work = parse(text, "work");
        assert_eq!((work.get("region"), work.get("aws_access_key_id")), (Some("eu-west-1"), Some("B")));
        assert_eq!(parse(text, "other"), Profile::default());
    }
}
