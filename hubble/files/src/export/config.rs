//! What is exported where: the options of the one static export, and the file of dynamic ones.
//!
//! The file is YAML or JSON: a list `flowLogs`, each with `name` and `filePath`, and if wanted `fieldMask`,
//! `includeFilters`, `excludeFilters`, `end`, `fileMaxSizeMb`, `fileMaxBackups`, `fileCompress`. A file with a mistake is
//! refused as a whole.

use super::Rotation;
use hubble_api::{
    flow::{Flow, FlowFilter},
    json::{self, Mask, MaskError},
    time,
};
use hubble_metrics::config::{filters, read_yaml};
use hubble_model::{FilterError, FilterList};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// One export.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowLog {
    /// Its name, in metrics and messages.
    pub name: String,
    /// The file; `stdout` is the agent's own output.
    pub path: PathBuf,
    /// Fields of flows that are written; none: all.
    pub mask: Vec<String>,
    /// Flows that are written; none: all.
    pub include: Vec<FlowFilter>,
    /// Flows that are not written.
    pub exclude: Vec<FlowFilter>,
    /// When it ends, nanoseconds since 1970.
    pub end_ns: Option<i64>,
    /// How the file is rotated.
    pub rotation: Rotation,
}

/// Why an export is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what the fields are")]
pub enum ConfigError {
    #[error("this is not YAML: {0}")]
    Syntax(String),
    #[error("{path}: {want} is expected")]
    Type { path: String, want: &'static str },
    #[error("{path}: there is no field {field:?}: there are {known}")]
    Field { path: String, field: String, known: String },
    #[error("{path}: {what} {value:?} is there twice; each flow log needs its own")]
    Twice { path: String, what: &'static str, value: String },
    #[error("{path}: {why}")]
    Json { path: String, why: String },
    #[error("{path}: {source}")]
    Mask { path: String, source: MaskError },
    #[error("{path}: {source}")]
    Filter { path: String, source: FilterError },
}

impl FlowLog {
    /// The filters and the mask, ready for use.
    ///
    /// # Errors
    /// When a filter or a path of the mask means nothing.
    pub fn compile(&self) -> Result<(FilterList, Option<Mask>), ConfigError> {
        let name = || self.name.clone();
        let list = FilterList::new(&self.include, &self.exclude)
            .map_err(|source| ConfigError::Filter { path: name(), source })?;
        let mask = (!self.mask.is_empty()).then(|| Mask::new::<Flow>(&self.mask)).transpose();
        Ok((list, mask.map_err(|source| ConfigError::Mask { path: format!("{}: fieldMask", name()), source })?))
    }
}

/// Reads flow filters as options give them: JSON objects behind each other, with commas or space between.
///
/// # Errors
/// The first mistake, with the number of the filter.
pub fn parse_filters(text: &str) -> Result<Vec<FlowFilter>, ConfigError> {
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.is_empty() {
            return Ok(all);
        }
        let failed = |why: String| ConfigError::Json { path: format!("filter {}", all.len() + 1), why };
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = values.next().transpose().map_err(|why| failed(why.to_string()))?;
        rest = rest.get(values.byte_offset()..).unwrap_or_default();
        if let Some(value) = value {
            all.push(json::from_str(&value.to_string()).map_err(|why| failed(why.to_string()))?);
        }
    }
}

const FIELDS: [&str; 9] = [
    "name",
    "filePath",
    "fieldMask",
    "includeFilters",
    "excludeFilters",
    "end",
    "fileMaxSizeMb",
    "fileMaxBackups",
    "fileCompress",
];

/// Reads a configuration; `rotation` is that of flow logs that say nothing about it.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(text: &str, rotation: &Rotation) -> Result<Vec<FlowLog>, ConfigError> {
    let Some(value) = read_yaml(text).map_err(ConfigError::Syntax)? else { return Ok(Vec::new()) };
    let top = object(&value, "the document", &["flowLogs"])?;
    let list = match top.get("flowLogs") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ConfigError::Type { path: "flowLogs".into(), want: "a list" }),
    };
    let (mut names, mut paths) = (BTreeMap::new(), BTreeMap::new());
    let mut all = Vec::new();
    for (at, value) in list.iter().enumerate() {
        let path = format!("flowLogs[{at}]");
        let log = flow_log(value, &path, rotation)?;
        if names.insert(log.name.clone(), at).is_some() {
            return Err(ConfigError::Twice { path: format!("{path}.name"), what: "name", value: log.name });
        }
        if paths.insert(log.path.clone(), at).is_some() {
            let value = log.path.display().to_string();
            return Err(ConfigError::Twice { path: format!("{path}.filePath"), what: "path", value });
        }
        all.push(log);
    }
    Ok(all)
}

fn flow_log(value: &Value, path: &str, rotation: &Rotation) -> Result<FlowLog, ConfigError> {
    let map = object(value, path, &FIELDS)?;
    let file = text(map.get("filePath"), &format!("{path}.filePath"))?;
    if file != "stdout" && !Path::new(file).is_absolute() {
        return Err(ConfigError::Type { path: format!("{path}.filePath"), want: "an absolute path or stdout" });
    }
    let list = |field: &str| {
        let path = format!("{path}.{field}");
        filters(map.get(field), &path).map_err(|why| match why {
            hubble_metrics::ConfigError::Json { path, why } => ConfigError::Json { path, why },
            _ => ConfigError::Type { path, want: "a list of flow filters" },
        })
    };
    let log = FlowLog {
        name: text(map.get("name"), &format!("{path}.name"))?.into(),
        path: file.into(),
        mask: mask(map.get("fieldMask"), &format!("{path}.fieldMask"))?,
        include: list("includeFilters")?,
        exclude: list("excludeFilters")?,
        end_ns: end(map.get("end"), &format!("{path}.end"))?,
        rotation: of_rotation(map, path, rotation)?,
    };
    log.compile().map_err(|why| match why {
        ConfigError::Filter { source, .. } => ConfigError::Filter { path: path.into(), source },
        ConfigError::Mask { source, .. } => ConfigError::Mask { path: format!("{path}.fieldMask"), source },
        other => other,
    })?;
    Ok(log)
}

fn object<'v>(value: &'v Value, path: &str, fields: &[&str]) -> Result<&'v Map<String, Value>, ConfigError> {
    let map = value.as_object().ok_or_else(|| ConfigError::Type { path: path.into(), want: "a mapping" })?;
    match map.keys().find(|key| !fields.contains(&key.as_str())) {
        None => Ok(map),
        Some(field) => Err(ConfigError::Field { path: path.into(), field: field.clone(), known: fields.join(", ") }),
    }
}

fn text<'v>(value: Option<&'v Value>, path: &str) -> Result<&'v str, ConfigError> {
    value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| ConfigError::Type { path: path.into(), want: "a text that is not empty" })
}

fn mask(value: Option<&Value>, path: &str) -> Result<Vec<String>, ConfigError> {
    let wrong = || ConfigError::Type { path: path.into(), want: "a list of field paths" };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().map(|path| path.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn end(value: Option<&Value>, path: &str) -> Result<Option<i64>, ConfigError> {
    let wrong = || ConfigError::Type { path: path.into(), want: "a time such as 2026-01-31T23:59:59Z" };
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let at = time::parse_rfc3339(text).ok_or_else(wrong)?;
            Ok(Some(i64::try_from(time::nanos(&at)).map_err(|_| wrong())?))
        }
        Some(_) => Err(wrong()),
    }
}

fn of_rotation(map: &Map<String, Value>, path: &str, default: &Rotation) -> Result<Rotation, ConfigError> {
    let mut rotation = default.clone();
    let number = |field: &str, min: u64, want: &'static str| match map.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|number| (min..=1 << 20).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(ConfigError::Type { path: format!("{path}.{field}"), want }),
        },
    };
    if let Some(megabytes) = number("fileMaxSizeMb", 1, "a number of megabytes from 1 to 1048576")? {
        rotation.bytes_max = megabytes << 20;
    }
    if let Some(backups) = number("fileMaxBackups", 0, "a number from 0 to 1048576")? {
        rotation.backups_max = usize::try_from(backups).unwrap_or(usize::MAX);
    }
    match map.get("fileCompress") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(compress)) => rotation.compress = *compress,
        Some(_) => return Err(ConfigError::Type { path: format!("{path}.fileCompress"), want: "true or false" }),
    }
    Ok(rotation)
}

#[cfg(test)]
mod tests;
