//! `hubble watch peers`, `version` and `completion`.

use crate::{Failure, Io, commands::COMMANDS, commands::Command, remote, settings::Settings};
use hubble_api::peer::{NotifyRequest, peer_client::PeerClient};
use tokio_stream::StreamExt as _;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `hubble version` prints.
pub fn version_line() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("hubble {VERSION} compiled with rust on {os}/{arch}")
}

/// `hubble watch peers`: every known node, then each change, until interrupted.
pub async fn watch_peers(settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut client = PeerClient::new(remote::connect(settings)?);
    let mut changes = match client.notify(NotifyRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return remote::stream_end(&status),
    };
    while let Some(change) = changes.next().await {
        let change = match change {
            Ok(change) => change,
            Err(status) => return remote::stream_end(&status),
        };
        let tls = change.tls.as_ref().map(|tls| format!(" (TLS.ServerName: {})", tls.server_name));
        let kind = change.r#type().as_str_name();
        writeln!(io.out, "{kind:<12} {} {}{}", change.address, change.name, tls.unwrap_or_default())?;
        io.out.flush()?;
    }
    Ok(())
}

/// `hubble completion SHELL`: words of commands and flags, complete without asking the program.
pub fn completion(words: &[String], io: &mut Io<'_>) -> Result<(), Failure> {
    let shell = words.first().map(String::as_str);
    let text = match shell {
        Some("bash") => bash(),
        Some("zsh") => format!("#compdef hubble\nautoload -U +X bashcompinit && bashcompinit\n{}", bash()),
        Some("fish") => fish(),
        Some("powershell") => powershell(),
        Some(other) => return Err(Failure(format!("unknown shell {other:?}: want bash, zsh, fish or powershell"))),
        None => return Err(Failure("which shell? want bash, zsh, fish or powershell".into())),
    };
    io.out.write_all(text.as_bytes())?;
    Ok(())
}

/// The commands below one, and its flags.
fn candidates(command: Command) -> String {
    let below = COMMANDS.iter().filter(|(_, _, above, help)| *above == command && !help.is_empty());
    let words = below.map(|(_, words, ..)| words[0].to_owned());
    words.chain(command.flags().iter().map(|flag| format!("--{}", flag.name))).collect::<Vec<_>>().join(" ")
}

fn bash() -> String {
    let mut cases = String::new();
    for (command, words, above, _) in COMMANDS {
        let path = if *above == Command::Root {
            words[0].into()
        } else {
            format!("{}/{}", above.path().replace("hubble ", ""), words[0])
        };
        cases.push_str(&format!("        {path}) words=\"{}\" ;;\n", candidates(*command)));
    }
    format!(
        "_hubble() {{\n    local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" path=\"\" words word\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        \
         [[ \"$word\" == -* ]] || path=\"${{path:+$path/}}$word\"\n    done\n    \
         case \"$path\" in\n{cases}        *) words=\"{}\" ;;\n    esac\n    \
         COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}}\ncomplete -F _hubble hubble\n",
        candidates(Command::Root)
    )
}

fn fish() -> String {
    let mut text = String::from("complete -c hubble -f\n");
    for (command, words, above, help) in COMMANDS.iter().filter(|(.., help)| !help.is_empty()) {
        let condition = match above {
            Command::Root => "__fish_use_subcommand".to_owned(),
            above => format!("__fish_seen_subcommand_from {}", above.path().rsplit(' ').next().unwrap_or_default()),
        };
        text.push_str(&format!(
            "complete -c hubble -n '{condition}' -a {} -d '{}'\n",
            words[0],
            help.replace('\'', "")
        ));
        for flag in command.flags().iter().filter(|flag| !flag.help.is_empty()) {
            let help = flag.help.replace('\'', "");
            let name = words[0];
            text.push_str(&format!(
                "complete -c hubble -n '__fish_seen_subcommand_from {name}' -l {} -d '{help}'\n",
                flag.name
            ));
        }
    }
    text
}

fn powershell() -> String {
    let all: Vec<String> = COMMANDS.iter().map(|(command, ..)| candidates(*command)).collect();
    let mut words: Vec<&str> = all.iter().flat_map(|list| list.split(' ')).collect();
    words.extend(COMMANDS.iter().map(|(_, words, ..)| words[0]));
    words.sort_unstable();
    words.dedup();
    let list = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    format!(
        "Register-ArgumentCompleter -Native -CommandName hubble -ScriptBlock {{\n    param($word)\n    \
         @({list}) | Where-Object {{ $_ -like \"$word*\" }}\n}}\n"
    )
}
