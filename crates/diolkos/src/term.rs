// SPDX-License-Identifier: Apache-2.0
//! The terminal: colour where it is wanted, tables, progress, and units for people.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Whether to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint(bool);

/// What a piece of text means; the colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Head,
    /// Fine, or what to do.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Beside the point.
    Dim,
}

impl Paint {
    /// Never.
    pub const PLAIN: Paint = Paint(false);

    /// As standard output and the environment want it.
    #[must_use]
    pub fn stdout() -> Paint {
        Paint(io::stdout().is_terminal() && colour_allowed())
    }

    /// As standard error and the environment want it.
    #[must_use]
    pub fn stderr() -> Paint {
        Paint(io::stderr().is_terminal() && colour_allowed())
    }

    /// Whether it colours.
    #[must_use]
    pub fn colours(self) -> bool {
        self.0
    }

    /// The text, coloured if that is wanted.
    #[must_use]
    pub fn on(self, text: &str, style: Style) -> String {
        if !self.0 {
            return text.to_owned();
        }
        let code = match style {
            Style::Head => "1",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31;1",
            Style::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// <https://no-color.org>: set and not empty means no colour.
fn colour_allowed() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether the locale says that characters beyond ASCII can be shown.
#[must_use]
pub fn speaks_utf8() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let value = names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    value.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

/// Which way a column of a [`Table`] leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lean {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns that line up. Cells are plain text; a row may have one [`Style`].
#[derive(Debug)]
pub struct Table {
    head: Vec<(&'static str, Lean)>,
    rows: Vec<(Vec<String>, Option<Style>)>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(head: &[(&'static str, Lean)]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>, style: Option<Style>) {
        debug_assert_eq!(cells.len(), self.head.len(), "a row has one cell per column");
        self.rows.push((cells, style));
    }

    /// Writes it.
    pub fn write(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|(cells, _)| cells[column].chars().count());
            cells.chain([self.head[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let head: Vec<String> = self.head.iter().map(|(name, _)| (*name).to_owned()).collect();
        writeln!(out, "{}", paint.on(&self.line(&head, &widths), Style::Head))?;
        for (cells, style) in &self.rows {
            let line = self.line(cells, &widths);
            match style {
                Some(style) => writeln!(out, "{}", paint.on(&line, *style))?,
                None => writeln!(out, "{line}")?,
            }
        }
        Ok(())
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, &width), (_, lean)) in cells.iter().zip(widths).zip(&self.head) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let space = " ".repeat(width - cell.chars().count());
            match lean {
                Lean::Left => line.extend([cell.as_str(), &space]),
                Lean::Right => line.extend([space.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Shows that something is going on, on a terminal and nowhere else. Gone when dropped.
#[derive(Debug)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// How often the picture changes.
    const TICK: Duration = Duration::from_millis(80);

    /// Work of unknown length.
    #[must_use]
    pub fn spinner(message: impl Into<String>) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = ProgressBar::new_spinner().with_message(message.into());
        bar.enable_steady_tick(Progress::TICK);
        Progress(Some(bar))
    }

    /// Work of `length` steps.
    #[must_use]
    pub fn steps(message: impl Into<String>, length: u64) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(None);
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")
            .expect("the template above is well formed");
        Progress(Some(ProgressBar::new(length).with_style(style).with_message(message.into())))
    }

    /// One step is done.
    pub fn step(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A size for people: `93.6 kB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time for people: `412 ns`, `41.5 µs`, `3.20 ms`, `1.50 s`.
#[must_use]
pub fn time(time: Duration) -> String {
    let ns = time.as_nanos() as f64;
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

/// Microseconds with one digit, for columns.
#[must_use]
pub fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_nanos() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Lean::Left), ("µs", Lean::Right)]);
        table.row(vec!["a".into(), "7".into()], None);
        table.row(vec!["longer".into(), "12345".into()], Some(Style::Warn));
        let mut out = Vec::new();
        table.write(&mut out, Paint::PLAIN).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME       µs\na           7\nlonger  12345\n");
        let mut out = Vec::new();
        table.write(&mut out, Paint(true)).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("\x1b[33mlonger  12345\x1b[0m\n"));
    }

    #[test]
    fn units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(93_560), "93.6 kB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(time(Duration::from_nanos(412)), "412 ns");
        assert_eq!(time(Duration::from_nanos(41_460)), "41.5 µs");
        assert_eq!(time(Duration::from_micros(3200)), "3.20 ms");
        assert_eq!(time(Duration::from_millis(1500)), "1.50 s");
    }
}
