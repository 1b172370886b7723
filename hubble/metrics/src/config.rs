//! The file of metrics that may change while the agent runs (`--hubble-dynamic-metrics-config-path`).
//!
//! YAML or JSON: a list `metrics` of plugins, each with `name`, `contextOptions` (a list of `name` and `values`),
//! `includeFilters` and `excludeFilters` (flow filters). A file with a mistake is refused as a whole.

use crate::options::{Builder, OptionError, Plugin, PluginConfig};
use hubble_api::{flow::FlowFilter, json};
use hubble_model::{FilterError, FilterList};
use policy::parse::{Limits, documents};
use serde_json::{Map, Value};

/// What a change of the configuration did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Plugins that were not on before.
    pub added: Vec<Plugin>,
    /// Plugins that are off now.
    pub removed: Vec<Plugin>,
    /// Plugins that begin anew, because their labels are others.
    pub renewed: Vec<Plugin>,
    /// Plugins that go on.
    pub kept: usize,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what the fields are")]
pub enum ConfigError {
    #[error("this is not YAML: {0}")]
    Syntax(String),
    #[error("{path}: {want} is expected")]
    Type { path: String, want: &'static str },
    #[error("{path}: there is no field {field:?}: there are {known}")]
    Field { path: String, field: String, known: &'static str },
    #[error("{path}: {source}")]
    Option { path: String, source: OptionError },
    #[error("{path}: {why}")]
    Json { path: String, why: String },
    #[error("{path}: {source}")]
    Filter { path: String, source: FilterError },
    #[error(transparent)]
    Together(#[from] OptionError),
}

/// Bounds of a configuration, far above what anybody writes.
const LIMITS: Limits = Limits { bytes_max: 1 << 20, depth_max: 16, nodes_max: 1 << 16, expanded_bytes_max: 1 << 20 };

/// Reads a YAML text that holds one document; an empty text is none.
///
/// # Errors
/// In words.
pub fn read_yaml(text: &str) -> Result<Option<Value>, String> {
    let mut all = documents(text, &LIMITS).map_err(|why| match why.problem {
        policy::parse::Problem::TooMuch { allowed, .. } => {
            format!("the text is larger, deeper or longer than is allowed ({allowed})")
        }
        problem => problem.to_string(),
    })?;
    if all.len() > 1 {
        return Err("there is more than one document".into());
    }
    Ok(all.pop().filter(|value| !value.is_null()))
}

/// Reads a list of flow filters out of a value.
///
/// # Errors
/// Names the filter.
pub fn filters(value: Option<&Value>, path: &str) -> Result<Vec<FlowFilter>, ConfigError> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(ConfigError::Type { path: path.into(), want: "a list of flow filters" }),
    };
    list.iter()
        .enumerate()
        .map(|(at, filter)| {
            json::from_str::<FlowFilter>(&filter.to_string())
                .map_err(|why| ConfigError::Json { path: format!("{path}[{at}]"), why: why.to_string() })
        })
        .collect()
}

/// Reads a configuration.
///
/// # Errors
/// The first mistake, with its place.
pub fn parse(text: &str) -> Result<Vec<PluginConfig>, ConfigError> {
    let Some(value) = read_yaml(text).map_err(ConfigError::Syntax)? else { return Ok(Vec::new()) };
    let top = object(&value, "the document")?;
    known(top, "the document", &["metrics"], "metrics")?;
    let list = match top.get("metrics") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list) => array(list, "metrics")?,
    };
    let all = list.iter().enumerate().map(|(at, metric)| plugin(metric, &format!("metrics[{at}]")));
    let all: Vec<PluginConfig> = all.collect::<Result<_, _>>()?;
    crate::options::check(&all)?;
    Ok(all)
}

fn plugin(value: &Value, path: &str) -> Result<PluginConfig, ConfigError> {
    const FIELDS: [&str; 4] = ["name", "contextOptions", "includeFilters", "excludeFilters"];
    let metric = object(value, path)?;
    known(metric, path, &FIELDS, "name, contextOptions, includeFilters, excludeFilters")?;
    let at = |source| ConfigError::Option { path: path.into(), source };
    let name = text(metric.get("name"), &format!("{path}.name"))?;
    let mut builder = Builder::new(name).map_err(at)?;
    let options = match metric.get("contextOptions") {
        None | Some(Value::Null) => &[][..],
        Some(list) => array(list, &format!("{path}.contextOptions"))?,
    };
    for (n, option) in options.iter().enumerate() {
        let path = format!("{path}.contextOptions[{n}]");
        let option = object(option, &path)?;
        known(option, &path, &["name", "values"], "name, values")?;
        let name = text(option.get("name"), &format!("{path}.name"))?;
        let values: Vec<String> = match option.get("values") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => {
                let path = format!("{path}.values");
                let of = |value| text(Some(value), &path).map(str::to_owned);
                array(list, &path)?.iter().map(of).collect::<Result<_, _>>()?
            }
        };
        let values: Vec<String> = values.into_iter().filter(|value| !value.is_empty()).collect();
        builder.option(name, &values).map_err(|source| ConfigError::Option { path, source })?;
    }
    let (include, exclude) = (format!("{path}.includeFilters"), format!("{path}.excludeFilters"));
    let allow = filters(metric.get("includeFilters"), &include)?;
    let deny = filters(metric.get("excludeFilters"), &exclude)?;
    if !(allow.is_empty() && deny.is_empty()) {
        let list = FilterList::new(&allow, &deny);
        let list = list.map_err(|source| ConfigError::Filter { path: format!("{path}: filters"), source })?;
        builder.config.filters = Some(list);
    }
    Ok(builder.config)
}

fn object<'v>(value: &'v Value, path: &str) -> Result<&'v Map<String, Value>, ConfigError> {
    value.as_object().ok_or_else(|| ConfigError::Type { path: path.into(), want: "a mapping" })
}

fn array<'v>(value: &'v Value, path: &str) -> Result<&'v [Value], ConfigError> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| ConfigError::Type { path: path.into(), want: "a list" })
}

fn text<'v>(value: Option<&'v Value>, path: &str) -> Result<&'v str, ConfigError> {
    value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| ConfigError::Type { path: path.into(), want: "a text that is not empty" })
}

fn known(map: &Map<String, Value>, path: &str, fields: &[&str], list: &'static str) -> Result<(), ConfigError> {
    match map.keys().find(|key| !fields.contains(&key.as_str())) {
        None => Ok(()),
        Some(field) => Err(ConfigError::Field { path: path.into(), field: field.clone(), known: list }),
    }
}

#[cfg(test)]
mod tests;
