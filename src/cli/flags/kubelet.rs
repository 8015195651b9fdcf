//! The kubelet's flags that stand for fields of its configuration, from the table in `node_config::kubelet::flags`.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use node_config::kubelet::flags::{FLAGS, Flag, Kind};
use serde_json::{Map, Value};

/// What the command line says: field → value.
#[derive(Clone, Debug, Default)]
pub(super) struct KubeletFields(pub(super) Map<String, Value>);

impl Args for KubeletFields {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let arg = Arg::new(flag.name).long(flag.name).allow_hyphen_values(true);
            let arg = arg.value_parser(|text: &str| flag.parse(text)).value_name(value_name(flag.kind));
            // Go's boolean flags need no value.
            let arg = match flag.kind {
                Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Kind::Reservations => arg.action(ArgAction::Append),
                _ => arg,
            };
            command.arg(arg.hide(flag.help.is_none()).help(flag.help))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeletFields {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = |flag: &Flag| {
            let value = match flag.kind {
                Kind::Reservations => {
                    let lists = matches.get_many::<Value>(flag.name)?;
                    lists.filter_map(Value::as_array).flatten().cloned().collect()
                }
                _ => matches.get_one::<Value>(flag.name)?.clone(),
            };
            Some((flag.field.to_owned(), value))
        };
        Ok(Self(FLAGS.iter().filter_map(said).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "value",
        Kind::Number => "number",
        Kind::Bool => "true|false",
        Kind::List => "values",
        Kind::Map | Kind::Gates => "pairs",
        Kind::Thresholds => "thresholds",
        Kind::Taints => "taints",
        Kind::Reservations => "reservations",
    }
}
