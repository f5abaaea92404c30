// SPDX-License-Identifier: Apache-2.0
//! `diolkos ls`: the models of a daemon.

use super::{connect, of_client, print, print_json, runtime};
use crate::cli::LsArgs;
use crate::client::Indexed;
use crate::exit::{Exit, Failure};
use crate::term::{Lean, Paint, Style, Table};

pub(super) fn run(args: &LsArgs) -> Result<Exit, Failure> {
    let mut models =
        runtime()?.block_on(async { connect(&args.daemon).await?.index().await.map_err(of_client) })?;
    models.sort_by(|a, b| (&a.name, number(a)).cmp(&(&b.name, number(b))));
    if args.json {
        print_json(&models)?;
    } else {
        print(&table(&models, Paint::stdout()))?;
    }
    Ok(Exit::Ok)
}

/// Versions sort as numbers.
fn number(model: &Indexed) -> u64 {
    model.version.parse().unwrap_or(0)
}

fn table(models: &[Indexed], paint: Paint) -> Vec<u8> {
    let mut table = Table::new(&[
        ("MODEL", Lean::Left),
        ("VERSION", Lean::Right),
        ("STATE", Lean::Left),
        ("", Lean::Left),
    ]);
    for model in models {
        let style = match model.state.as_str() {
            "READY" => None,
            "UNAVAILABLE" if !model.reason.is_empty() => Some(Style::Bad),
            _ => Some(Style::Dim),
        };
        let state = if model.state.is_empty() { "not loaded" } else { &model.state };
        let cells =
            vec![model.name.clone(), model.version.clone(), state.to_lowercase(), model.reason.clone()];
        table.row(cells, style);
    }
    let mut out = Vec::new();
    table.write(&mut out, paint).expect("writing to memory does not fail");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_per_version_with_its_reason() {
        let model = |name: &str, version: &str, state: &str, reason: &str| Indexed {
            name: name.into(),
            version: version.into(),
            state: state.into(),
            reason: reason.into(),
        };
        let models = [
            model("digits", "1", "READY", ""),
            model("x", "", "", ""),
            model("y", "2", "UNAVAILABLE", "cut off"),
        ];
        let text = String::from_utf8(table(&models, Paint::PLAIN)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "MODEL   VERSION  STATE");
        assert_eq!(lines[1], "digits        1  ready");
        assert_eq!(lines[2], "x                not loaded");
        assert_eq!(lines[3], "y             2  unavailable  cut off");
    }
}
