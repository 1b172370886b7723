//! `hubble config`: the settings in force, and those kept in the file.

use crate::{
    Failure, Io,
    commands::{Command, GLOBAL},
    flags::{Flag, Takes, parse_bool},
    settings::{Settings, read_yaml, write_yaml},
    times::parse_duration,
};

/// `hubble config get|set|reset|view`.
pub fn run(command: Command, settings: &Settings, words: &[String], io: &mut Io<'_>) -> Result<(), Failure> {
    let listed = || format!("'{}'", words.join(" "));
    match (command, words) {
        (Command::ConfigView, _) | (Command::ConfigGet, []) => write!(io.out, "{}", settings.view())?,
        (Command::ConfigGet, [key]) => {
            let value = settings.yaml(find(key)?);
            writeln!(io.out, "{}", value.trim_start_matches('\n'))?;
        }
        (Command::ConfigGet, _) => {
            return Err(Failure(format!("invalid arguments: get requires exactly 0 or 1 argument: got {}", listed())));
        }
        (Command::ConfigSet, [key]) => change(settings, find(key)?, "")?,
        (Command::ConfigSet, [key, value]) => change(settings, find(key)?, value)?,
        (Command::ConfigSet, _) => {
            return Err(Failure(format!(
                "invalid arguments: set requires exactly 1 or 2 argument(s): got {}",
                listed()
            )));
        }
        (Command::ConfigReset, [key]) => change(settings, find(key)?, "")?,
        (Command::ConfigReset, []) => {
            for flag in GLOBAL.iter().filter(|flag| flag.takes != Takes::Port && flag.name != "config") {
                change(settings, flag, "")?;
            }
        }
        (_, _) => {
            return Err(Failure(format!(
                "invalid arguments: resset requires exactly 0 or 1 argument: got {}",
                listed()
            )));
        }
    }
    Ok(())
}

fn find(key: &str) -> Result<&'static Flag, Failure> {
    GLOBAL.iter().find(|flag| flag.name == key).ok_or_else(|| Failure(format!("unknown key: {key}")))
}

/// Writes one setting into the file, beside those already there. No value is the default.
fn change(settings: &Settings, flag: &Flag, value: &str) -> Result<(), Failure> {
    let wrong = |kind: &str, why: String| {
        Failure(format!("cannot assign value={value} for key={}, expected type={kind}: {why}", flag.name))
    };
    let value = if value.is_empty() { flag.default } else { value };
    let values = match flag.takes {
        Takes::Port => return Err(Failure("unhandeld type uint16, please open an issue".into())),
        Takes::List | Takes::Many => {
            value.split(',').filter(|part| !part.is_empty() && *part != "[]").map(str::to_owned).collect()
        }
        Takes::Bool => vec![parse_bool(value).map_err(|why| wrong("bool", why))?.to_string()],
        Takes::Duration => {
            parse_duration(value).map_err(|why| wrong("duration", why))?;
            vec![value.to_owned()]
        }
        _ => vec![value.to_owned()],
    };
    let path = &settings.file;
    let mut all = match std::fs::read_to_string(path) {
        Ok(text) => read_yaml(&text),
        Err(_) => Default::default(),
    };
    all.insert(flag.name.into(), values);
    write_yaml(path, &all).map_err(|error| Failure(format!("failed to write config file {}: {error}", path.display())))
}
