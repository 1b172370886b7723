//! Which metrics are on: `--hubble-metrics`.
//!
//! A list of `plugin[:option[=value][;option…]]`, separated by white space or commas; values of contexts separated by
//! `|`. A comma also separates the labels of `labelsContext`: what stands behind such a comma and is a label's name is
//! one. Names of options do not mind capitals. Unlike the original, what means nothing is refused.

use crate::context::{Context, Contexts, Fallbacks, Label};
use hubble_model::FilterList;

/// A plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is what it is named after")]
pub enum Plugin {
    Dns,
    Drop,
    Flow,
    FlowsToWorld,
    Http,
    HttpV2,
    Icmp,
    Kafka,
    Policy,
    PortDistribution,
    Sctp,
    Tcp,
}

impl Plugin {
    /// All plugins by their names in options.
    pub const ALL: [(&'static str, Self); 12] = [
        ("dns", Self::Dns),
        ("drop", Self::Drop),
        ("flow", Self::Flow),
        ("flows-to-world", Self::FlowsToWorld),
        ("http", Self::Http),
        ("httpV2", Self::HttpV2),
        ("icmp", Self::Icmp),
        ("kafka", Self::Kafka),
        ("policy", Self::Policy),
        ("port-distribution", Self::PortDistribution),
        ("sctp", Self::Sctp),
        ("tcp", Self::Tcp),
    ];

    /// Its name in options.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, plugin)| *plugin == self).map_or("", |(name, _)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, plugin)| *plugin)
    }

    /// The options it has besides contexts.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Dns => &["query", "ignoreAAAA"],
            Self::FlowsToWorld => &["any-drop", "port", "syn-only"],
            Self::Http | Self::HttpV2 => &["exemplars"],
            _ => &[],
        }
    }
}

/// Options that some plugins have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// `dns`: a label with the name asked for.
    pub query: bool,
    /// `dns`: flows that ask for AAAA alone are not counted.
    pub ignore_aaaa: bool,
    /// `flows-to-world`: drops for other reasons than policy count too.
    pub any_drop: bool,
    /// `flows-to-world`: a label with the port.
    pub port: bool,
    /// `flows-to-world`: of TCP only SYNs count.
    pub syn_only: bool,
    /// `http`, `httpV2`: traces as exemplars.
    pub exemplars: bool,
}

/// A plugin that is on.
#[derive(Debug)]
pub struct PluginConfig {
    /// Which.
    pub plugin: Plugin,
    /// Its labels.
    pub contexts: Contexts,
    /// Its own options.
    pub switches: Switches,
    /// Which flows it counts; none: all.
    pub filters: Option<FilterList>,
}

/// Why a list of metrics is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what the fields are")]
pub enum OptionError {
    #[error("metric '{name}' does not exist: there are {}", names(&Plugin::ALL))]
    UnknownPlugin { name: String },
    #[error("{label:?} behind labelsContext of {plugin} is neither one of its labels ({}) nor a metric ({})",
        names(&Label::ALL), names(&Plugin::ALL))]
    UnknownLabelOrPlugin { plugin: &'static str, label: String },
    #[error("metric {plugin} is there twice: give all its options at once")]
    Twice { plugin: &'static str },
    #[error("plugin {one} conflicts with plugin {other}: their metrics have the same names, so use one of them")]
    Conflict { one: &'static str, other: &'static str },
    #[error("{plugin}: there is no option {option:?}: it has {}", allowed(.plugin))]
    UnknownOption { plugin: &'static str, option: String },
    #[error("{plugin}: option {option} is there twice")]
    OptionTwice { plugin: &'static str, option: String },
    #[error("{plugin}: option {option}: unknown context '{context}': there are {}", names(&Context::ALL))]
    UnknownContext { plugin: &'static str, option: String, context: String },
    #[error("{plugin}: option {option}: invalid labelsContext value: {label}: there are {}", names(&Label::ALL))]
    UnknownLabel { plugin: &'static str, option: String, label: String },
    #[error("{plugin}: option {option} is true or false, not {value:?}")]
    NoSwitch { plugin: &'static str, option: String, value: String },
    #[error("{plugin}: option {option} needs a value: {option}=…")]
    NoValue { plugin: &'static str, option: String },
}

fn names<T>(list: &[(&'static str, T)]) -> String {
    list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Options that take contexts.
const CONTEXTS: [&str; 6] = [
    "sourceContext",
    "destinationContext",
    "sourceEgressContext",
    "sourceIngressContext",
    "destinationEgressContext",
    "destinationIngressContext",
];
const LABELS: &str = "labelsContext";

fn allowed(plugin: &str) -> String {
    let own = Plugin::named(plugin).map_or(&[][..], Plugin::options);
    own.iter().chain(&CONTEXTS).chain([&LABELS]).copied().collect::<Vec<_>>().join(", ")
}

/// Reads a list of metrics.
///
/// # Errors
/// The first mistake, with what would be right.
pub fn parse(text: &str) -> Result<Vec<PluginConfig>, OptionError> {
    let mut all = Vec::new();
    for item in items(text)? {
        let (name, options) = item.split_once(':').unwrap_or((&item, ""));
        let mut builder = Builder::new(name)?;
        for option in options.split(';').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let values: Vec<String> = value.map_or_else(Vec::new, |value| {
                value.split(['|', ',']).filter(|value| !value.is_empty()).map(str::to_owned).collect()
            });
            builder.option(name, &values)?;
        }
        all.push(builder.config);
    }
    check(&all)?;
    Ok(all)
}

/// The list's items: commas end them, unless one is between labels.
fn items(text: &str) -> Result<Vec<String>, OptionError> {
    let mut items: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut fresh = true;
        for piece in word.split(',').filter(|piece| !piece.is_empty()) {
            let open = items.last().filter(|_| !fresh).filter(|item| ends_in_labels(item)).cloned();
            fresh = false;
            let label = piece.split(';').next().unwrap_or_default();
            let is_plugin = Plugin::named(piece.split(':').next().unwrap_or_default()).is_some();
            match (open, items.last_mut()) {
                (Some(_), Some(item)) if Label::ALL.iter().any(|(name, _)| *name == label) => {
                    item.push(',');
                    item.push_str(piece);
                }
                (Some(item), _) if !is_plugin => {
                    let name = item.split(':').next().unwrap_or_default();
                    let plugin = Plugin::named(name).map_or("metric", Plugin::name);
                    return Err(OptionError::UnknownLabelOrPlugin { plugin, label: label.to_owned() });
                }
                _ => items.push(piece.to_owned()),
            }
        }
    }
    Ok(items)
}

fn ends_in_labels(item: &str) -> bool {
    let last = item.rsplit([';', ':']).next().unwrap_or_default();
    last.split_once('=').is_some_and(|(name, _)| name.eq_ignore_ascii_case(LABELS))
}

/// No plugin twice, none beside the one it excludes.
pub(crate) fn check(all: &[PluginConfig]) -> Result<(), OptionError> {
    for (at, config) in all.iter().enumerate() {
        for earlier in &all[..at] {
            let (one, other) = (earlier.plugin, config.plugin);
            if one == other {
                return Err(OptionError::Twice { plugin: one.name() });
            }
            if matches!((one, other), (Plugin::Http, Plugin::HttpV2) | (Plugin::HttpV2, Plugin::Http)) {
                return Err(OptionError::Conflict { one: one.name(), other: other.name() });
            }
        }
    }
    Ok(())
}

/// A plugin while its options are read.
pub(crate) struct Builder {
    pub config: PluginConfig,
    seen: Vec<String>,
}

impl Builder {
    pub fn new(name: &str) -> Result<Self, OptionError> {
        let plugin = Plugin::named(name).ok_or_else(|| OptionError::UnknownPlugin { name: name.to_owned() })?;
        let (contexts, switches) = (Contexts::default(), Switches::default());
        Ok(Self { config: PluginConfig { plugin, contexts, switches, filters: None }, seen: Vec::new() })
    }

    pub fn option(&mut self, name: &str, values: &[String]) -> Result<(), OptionError> {
        let plugin = self.config.plugin.name();
        let option = name.to_lowercase();
        if self.seen.contains(&option) {
            return Err(OptionError::OptionTwice { plugin, option: name.to_owned() });
        }
        if self.context_option(name, values)? {
            self.seen.push(option);
            return Ok(());
        }
        if !self.config.plugin.options().iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(OptionError::UnknownOption { plugin, option: name.to_owned() });
        }
        let on = match values {
            [] => true,
            [value] if value == "true" => true,
            [value] if value == "false" => false,
            values => {
                return Err(OptionError::NoSwitch { plugin, option: name.to_owned(), value: values.join(",") });
            }
        };
        let switches = &mut self.config.switches;
        match option.as_str() {
            "query" => switches.query = on,
            "ignoreaaaa" => switches.ignore_aaaa = on,
            "any-drop" => switches.any_drop = on,
            "port" => switches.port = on,
            "syn-only" => switches.syn_only = on,
            "exemplars" => switches.exemplars = on,
            _ => return Err(OptionError::UnknownOption { plugin, option: name.to_owned() }),
        }
        self.seen.push(option);
        Ok(())
    }

    /// False when the option is none of the contexts'.
    fn context_option(&mut self, name: &str, values: &[String]) -> Result<bool, OptionError> {
        let plugin = self.config.plugin.name();
        let Contexts { source, destination, labels } = &mut self.config.contexts;
        let Fallbacks { any, egress, ingress } = source;
        let list = match name.to_lowercase().as_str() {
            "sourcecontext" => any,
            "sourceegresscontext" => egress,
            "sourceingresscontext" => ingress,
            "destinationcontext" => &mut destination.any,
            "destinationegresscontext" => &mut destination.egress,
            "destinationingresscontext" => &mut destination.ingress,
            "labelscontext" => {
                *labels = values
                    .iter()
                    .map(|value| {
                        let found = Label::ALL.iter().find(|(name, _)| name == value);
                        let unknown =
                            || OptionError::UnknownLabel { plugin, option: name.into(), label: value.clone() };
                        found.map(|(_, label)| *label).ok_or_else(unknown)
                    })
                    .collect::<Result<_, _>>()?;
                return present(plugin, name, values);
            }
            _ => return Ok(false),
        };
        *list = values
            .iter()
            .map(|value| {
                let found = Context::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
                let unknown = || OptionError::UnknownContext { plugin, option: name.into(), context: value.clone() };
                found.map(|(_, context)| *context).ok_or_else(unknown)
            })
            .collect::<Result<_, _>>()?;
        present(plugin, name, values)
    }
}

fn present(plugin: &'static str, option: &str, values: &[String]) -> Result<bool, OptionError> {
    if values.is_empty() { Err(OptionError::NoValue { plugin, option: option.into() }) } else { Ok(true) }
}

#[cfg(test)]
mod tests;
