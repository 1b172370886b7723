//! Where a setting comes from: the flag, else the environment, else the file, else the default.

use crate::{
    commands::{GLOBAL, RAW_FILTERS},
    flags::{Flag, Parsed, Takes, parse_bool},
    times::{parse_duration, show_duration},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What the program was given beside its arguments.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The working directory.
    pub directory: PathBuf,
}

impl Environment {
    /// The value of a variable; empty ones count as absent.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Where the configuration file is written.
    pub fn config_path(&self) -> PathBuf {
        self.user_dir().join("hubble").join("config.yaml")
    }

    /// Whether `HUBBLE_COMPAT` names a behaviour of the original; names that are not known are passed over.
    pub fn compat(&self, name: &str) -> bool {
        let named = self.variable("HUBBLE_COMPAT").unwrap_or_default();
        named.split(',').any(|word| word.trim().eq_ignore_ascii_case(name))
    }

    fn user_dir(&self) -> PathBuf {
        let home = || self.variable("HOME").map_or_else(PathBuf::new, PathBuf::from);
        self.variable("XDG_CONFIG_HOME").map_or_else(|| home().join(".config"), PathBuf::from)
    }

    /// The places a configuration file is looked for, first one wins.
    fn config_paths(&self) -> [PathBuf; 3] {
        let home = self.variable("HOME").map_or_else(PathBuf::new, PathBuf::from);
        [self.directory.join("config.yaml"), self.config_path(), home.join(".hubble").join("config.yaml")]
    }
}

/// In `HUBBLE_COMPAT`: also a `tls` that is no boolean is as good as none, as in the original.
const LENIENT: &str = "lenient-settings";

/// A setting of the environment or the file that cannot be meant, and counts as not given.
#[derive(Debug)]
struct Unreadable {
    flag: &'static str,
    /// Where it stands, and what is wrong with it.
    why: String,
    instead: &'static str,
}

/// Resolved settings.
#[derive(Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Vec<String>>,
    /// The file settings are read from and written to.
    pub file: PathBuf,
    unreadable: Vec<Unreadable>,
    lenient: bool,
}

/// The name of a setting's environment variable.
pub fn variable_name(flag: &str) -> String {
    format!("HUBBLE_{}", flag.to_uppercase().replace('-', "_"))
}

impl Settings {
    /// Resolves the flags of a command.
    pub fn new(flags: &[Flag], parsed: &Parsed, env: &Environment) -> Self {
        let given = parsed.given("config").or_else(|| env.variable("HUBBLE_CONFIG")).map(PathBuf::from);
        let found = env.config_paths().into_iter().find(|path| path.is_file());
        let file = given.or(found).unwrap_or_else(|| env.config_path());
        // A file that is missing or no YAML says nothing.
        let in_file = std::fs::read_to_string(&file).map(|text| read_yaml(&text)).unwrap_or_default();
        let mut values = BTreeMap::new();
        let mut unreadable = Vec::new();
        for flag in flags {
            // Other flags are of the command line alone.
            let kept = GLOBAL.iter().chain(RAW_FILTERS).any(|known| known.name == flag.name);
            let from_env = || {
                let value = env.variable(&variable_name(flag.name))?;
                Some(if flag.takes == Takes::List { split(value) } else { vec![value.to_owned()] })
            };
            let beside = || match from_env() {
                Some(value) => Some((value, variable_name(flag.name))),
                None => Some((in_file.get(flag.name)?.clone(), format!("{}: {}", file.display(), flag.name))),
            };
            let filter = matches!(flag.takes, Takes::Filter | Takes::FilterOr(_));
            let given = parsed.values.get(flag.name).cloned().or_else(|| {
                let (value, place) = kept.then(beside)??;
                let Some(why) = value.iter().find_map(|text| crate::flags::check(flag.takes, text).err()) else {
                    return Some(value);
                };
                unreadable.push(Unreadable { flag: flag.name, why: format!("{place}: {why}"), instead: flag.default });
                None
            });
            if let Some(value) = given.filter(|_| !filter) {
                values.insert(flag.name, value);
            }
        }
        values.entry("config").or_insert_with(|| vec![file.display().to_string()]);
        for flag in flags {
            let many = matches!(flag.takes, Takes::List | Takes::Many);
            values.entry(flag.name).or_insert_with(|| if many { Vec::new() } else { vec![flag.default.to_owned()] });
        }
        Self { values, file, unreadable, lenient: env.compat(LENIENT) }
    }

    /// Refuses a `tls` of the environment or the file that cannot be meant: a connection that was to be secret must not
    /// be open because of a typing error. Anything else of that kind is as good as none, and told by [`Self::warnings`].
    pub fn check(&self) -> Result<(), String> {
        let secure = self.lenient || self.text("server").starts_with("tls://");
        let wrong = self.unreadable.iter().find(|setting| setting.flag == "tls" && !secure);
        wrong.map_or(Ok(()), |setting| Err(format!("invalid setting {}", setting.why)))
    }

    /// What the environment and the file say that counts as not given.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let told = |setting: &Unreadable| format!("invalid setting {}; {:?} is taken", setting.why, setting.instead);
        self.unreadable.iter().map(told)
    }

    /// The text of a setting; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).and_then(|values| values.last()).map_or("", String::as_str)
    }

    /// All values of a setting.
    pub fn list(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// True when the setting says so; what is no boolean is false.
    pub fn flag(&self, name: &str) -> bool {
        parse_bool(self.text(name)).unwrap_or(false)
    }

    /// A count.
    pub fn number(&self, name: &str) -> u64 {
        crate::flags::parse_uint(self.text(name), 64, true).unwrap_or(0)
    }

    /// A length of time.
    pub fn duration(&self, name: &str) -> Result<std::time::Duration, String> {
        let ns = parse_duration(self.text(name)).map_err(|why| format!("invalid --{name}: {why}"))?;
        Ok(std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(0)))
    }

    /// One setting as YAML, without the key.
    pub fn yaml(&self, flag: &Flag) -> String {
        match flag.takes {
            Takes::List | Takes::Many => {
                let items: Vec<_> = self.list(flag.name).iter().map(|item| scalar(item)).collect();
                if items.is_empty() { "[]".into() } else { format!("\n    - {}", items.join("\n    - ")) }
            }
            Takes::Bool => self.flag(flag.name).to_string(),
            Takes::Duration => parse_duration(self.text(flag.name)).map_or_else(|why| why, show_duration),
            Takes::Port => format!("\"{}\"", self.text(flag.name)),
            _ => scalar(self.text(flag.name)),
        }
    }

    /// All settings as YAML, sorted by key.
    pub fn view(&self) -> String {
        let mut flags: Vec<&Flag> = GLOBAL.iter().collect();
        flags.sort_by_key(|flag| flag.name);
        let line = |flag: &Flag| {
            let value = self.yaml(flag);
            let space = if value.starts_with('\n') { "" } else { " " };
            format!("{}:{space}{value}\n", flag.name)
        };
        flags.into_iter().map(line).collect()
    }
}

fn split(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A text as a YAML scalar: quoted when it would read as something else.
fn scalar(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c))
        && !text.starts_with(['-', ':', '@', '.'])
        && !text.ends_with(':')
        && !text.contains(": ")
        && text.parse::<f64>().is_err()
        && !matches!(
            text.to_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | "~"
        );
    if plain { text.into() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// Reads the flat part of YAML a configuration consists of: `key: value` and lists. Anything else says nothing.
pub fn read_yaml(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = None;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') || bare == "---" {
            continue;
        }
        if let Some(item) = bare.strip_prefix("- ") {
            if let Some(key) = &list {
                found.entry(String::clone(key)).or_default().push(unquote(item));
            }
            continue;
        }
        let Some((key, value)) = bare.split_once(':').filter(|_| !line.starts_with(' ')) else { continue };
        let (key, value) = (key.trim().to_owned(), value.trim());
        match value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(items) => {
                let items = items.split(',').map(unquote).filter(|item| !item.is_empty()).collect();
                found.insert(key, items);
                list = None;
            }
            None if value.is_empty() => {
                found.insert(key.clone(), Vec::new());
                list = Some(key);
            }
            None => {
                found.insert(key, vec![unquote(value)]);
                list = None;
            }
        }
    }
    found
}

fn unquote(text: &str) -> String {
    let text = text.trim();
    let inner = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    if let Some(inner) = inner('"') {
        return inner.replace("\\\"", "\"").replace("\\\\", "\\");
    }
    if let Some(inner) = inner('\'') {
        return inner.replace("''", "'");
    }
    text.split_once(" #").map_or(text, |(value, _)| value.trim_end()).to_owned()
}

/// Writes settings as YAML; the folder is made when it is missing.
pub fn write_yaml(path: &Path, values: &BTreeMap<String, Vec<String>>) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut text = String::new();
    for (key, values) in values {
        let list = GLOBAL.iter().any(|flag| flag.name == key && matches!(flag.takes, Takes::List | Takes::Many));
        match &values[..] {
            [value] if !list => text.push_str(&format!("{key}: {}\n", file_scalar(key, value))),
            [] => text.push_str(&format!("{key}: []\n")),
            values => {
                text.push_str(&format!("{key}:\n"));
                for value in values {
                    text.push_str(&format!("    - {}\n", scalar(value)));
                }
            }
        }
    }
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    std::fs::write(path, text)
}

fn file_scalar(key: &str, value: &str) -> String {
    match GLOBAL.iter().find(|flag| flag.name == key).map(|flag| flag.takes) {
        Some(Takes::Bool | Takes::Number | Takes::Duration) => value.to_owned(),
        _ => scalar(value),
    }
}
