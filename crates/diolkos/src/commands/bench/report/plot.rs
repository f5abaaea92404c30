// SPDX-License-Identifier: Apache-2.0
//! Plots as SVG. The same results give the same bytes.

use std::error::Error;
use std::ops::Range;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;

use super::super::latencies::Point;
use super::results::{Distribution, Pair, PairRound, Results};
use super::verdict::{NOOP_MAX_NS, RATIO_MIN};

const SIZE: (u32, u32) = (860, 460);
const FONT: &str = "sans-serif";

/// Two hues that also differ in lightness, so that they stay apart in grey and for the colour-blind.
const OURS: RGBColor = RGBColor(20, 90, 170);
const BARE: RGBColor = RGBColor(214, 110, 20);
const THIRD: RGBColor = RGBColor(80, 150, 90);
const GREY: RGBColor = RGBColor(110, 110, 110);

/// A plot as a file.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) file: String,
    /// What is to be seen, for those who don't see it.
    pub(super) caption: String,
    pub(super) svg: String,
}

type Drawn = Result<String, Box<dyn Error>>;

/// All plots that these results make possible.
pub(super) fn all(results: &Results) -> Result<Vec<Plot>, Box<dyn Error>> {
    let mut plots = Vec::new();
    let mut add = |file: String, caption: String, drawn: Drawn| {
        plots.push(Plot { file, caption, svg: drawn? });
        Ok::<_, Box<dyn Error>>(())
    };
    if !results.pairs.is_empty() {
        let caption =
            "Rate of the daemon relative to a bare server, each round a point, with the median".to_owned();
        add("ratios.svg".into(), caption, ratios(&results.pairs))?;
    }
    for (protocol, transport) in groups(&results.pairs) {
        let of_group = |pair: &&Pair| pair.protocol == protocol && pair.transport == transport;
        let mut lines = Vec::new();
        for pair in results.pairs.iter().filter(of_group) {
            let dashed = pair.clients == 1;
            let label = |who| format!("{who}, {} client{}", pair.clients, if dashed { "" } else { "s" });
            lines.push(Line::new(label("daemon"), &pair.daemon.latency, OURS, dashed));
            lines.push(Line::new(label("bare server"), &pair.bare.latency, BARE, dashed));
        }
        let title = format!("{protocol} over {transport}: echo of a 602 kB tensor, closed loop");
        let file = format!("latency-{}-{transport}.svg", protocol.to_lowercase());
        add(file, format!("Latency by percentile, {title}"), percentiles(&title, &lines))?;
    }
    for open in &results.open {
        let lines = [
            Line::new("daemon".into(), &open.daemon, OURS, false),
            Line::new("bare server".into(), &open.bare, BARE, false),
        ];
        let title = format!(
            "{} over unix: the same at {:.0} requests per second, open loop",
            open.protocol, open.rate
        );
        let file = format!("open-{}.svg", open.protocol.to_lowercase());
        add(file, format!("Latency by percentile, {title}"), percentiles(&title, &lines))?;
    }
    if let Some(noop) = &results.noop {
        let title = "noop in one process, by Session::call";
        let drawn = cumulative(
            title,
            &[
                Line::new("single calls".into(), &noop.calls, OURS, false),
                Line::new(format!("means of {} calls", noop.batch), &noop.batches, THIRD, true),
            ],
            Some(("target for the median", NOOP_MAX_NS)),
        );
        add("noop.svg".into(), format!("Cumulative distribution, {title}"), drawn)?;
    }
    for (index, model) in results.models.iter().enumerate() {
        let colours = [THIRD, BARE, OURS];
        let ways = model.ways.iter().zip(colours.iter().cycle());
        let lines: Vec<Line<'_>> =
            ways.map(|(way, colour)| Line::new(way.name.clone(), &way.latency, *colour, false)).collect();
        let title = format!("{}, one client, closed loop", model.name);
        let file = format!("model-{}.svg", index + 1);
        add(file, format!("Latency by percentile, {title}"), percentiles(&title, &lines))?;
    }
    Ok(plots)
}

/// Protocol and transport of the pairs, each once.
fn groups(pairs: &[Pair]) -> Vec<(&str, &str)> {
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for pair in pairs {
        let group = (pair.protocol.as_str(), pair.transport.as_str());
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

struct Line<'a> {
    label: String,
    points: &'a [Point],
    colour: RGBColor,
    dashed: bool,
}

impl<'a> Line<'a> {
    fn new(label: String, distribution: &'a Distribution, colour: RGBColor, dashed: bool) -> Line<'a> {
        Line { label, points: &distribution.points, colour, dashed }
    }
}

/// Latency over the percentile, with the tail spread out: each step to the right leaves a tenth.
fn percentiles(title: &str, lines: &[Line<'_>]) -> Drawn {
    // The last point of a distribution is the greatest value, for which there is no place on this axis.
    let inner = |line: &Line<'_>| -> Vec<(f64, f64)> {
        let points = line.points.iter().filter(|point| point.quantile < 1.0);
        points.map(|point| (1.0 / (1.0 - point.quantile), micros(point.ns))).collect()
    };
    let series: Vec<Vec<(f64, f64)>> = lines.iter().map(inner).collect();
    let right = series.iter().flatten().map(|(x, _)| *x).fold(10.0, f64::max);
    let x = 1.0..10f64.powf(right.log10().ceil().clamp(1.0, 6.0));
    let y = decades(series.iter().flatten().map(|(_, y)| *y));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 18))
            .margin(12)
            .margin_right(40)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x.clone().log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(GREY.mix(0.12))
            .bold_line_style(GREY.mix(0.3))
            .x_desc("percentile of requests")
            .y_desc("latency (µs)")
            .x_label_formatter(&|x| percentile_label(*x))
            .y_label_formatter(&|y| number(*y))
            .axis_desc_style((FONT, 15))
            .label_style((FONT, 14))
            .draw()?;
        for (line, points) in lines.iter().zip(series) {
            let points = points.into_iter().filter(|(x_value, _)| x.contains(x_value));
            draw_line(&mut chart, line, points)?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
        root.present()?;
    }
    Ok(svg)
}

/// The part of all that took no longer, over latency.
fn cumulative(title: &str, lines: &[Line<'_>], mark: Option<(&str, f64)>) -> Drawn {
    let all = || lines.iter().flat_map(|line| line.points);
    let low = all().map(|point| point.ns.max(1) as f64).fold(f64::INFINITY, f64::min);
    // The tail is in the table; here it would squeeze everything else.
    let tail =
        all().filter(|point| point.quantile <= 0.9995).map(|point| point.ns as f64).fold(1.0, f64::max);
    let (low, high) = if low.is_finite() { (low, tail) } else { (100.0, 10_000.0) };
    let high = mark.map_or(high, |(_, at)| high.max(at * 1.2)).max(low * 2.0);
    // To the next one or two digits, where the axis has its labels.
    let step = 10f64.powf(low.log10().floor());
    let (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, (FONT, 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d((low..high).log_scale(), 0.0..100.0)?;
        chart
            .configure_mesh()
            .light_line_style(GREY.mix(0.12))
            .bold_line_style(GREY.mix(0.3))
            .x_desc("latency (ns)")
            .y_desc("calls that took no longer (%)")
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .axis_desc_style((FONT, 15))
            .label_style((FONT, 14))
            .draw()?;
        for line in lines {
            let points = line.points.iter().map(|point| (point.ns.max(1) as f64, point.quantile * 100.0));
            let points = points.filter(|(ns, _)| (low..=high).contains(ns));
            draw_line(&mut chart, line, points)?;
        }
        if let Some((label, at)) = mark {
            let style = GREY.stroke_width(2);
            chart
                .draw_series(DashedLineSeries::new([(at, 0.0), (at, 100.0)], 3, 4, style))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        legend(&mut chart, SeriesLabelPosition::LowerRight)?;
        root.present()?;
    }
    Ok(svg)
}

type Chart<'a, DB, X, Y> = ChartContext<'a, DB, Cartesian2d<X, Y>>;

fn draw_line<'a, DB, X, Y>(
    chart: &mut Chart<'a, DB, X, Y>,
    line: &Line<'_>,
    points: impl Iterator<Item = (f64, f64)>,
) -> Result<(), Box<dyn Error>>
where
    DB: DrawingBackend<ErrorType: 'static> + 'a,
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    let (colour, dashed) = (line.colour, line.dashed);
    let style = colour.stroke_width(2);
    let points: Vec<(f64, f64)> = points.collect();
    let drawn = if dashed {
        chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?
    } else {
        chart.draw_series(LineSeries::new(points, style))?
    };
    drawn.label(line.label.clone()).legend(move |(x, y)| {
        let end = if dashed { x + 6 } else { x + 18 };
        PathElement::new([(x, y), (end, y)], style)
    });
    Ok(())
}

fn legend<'a, DB, X, Y>(
    chart: &mut Chart<'a, DB, X, Y>,
    position: SeriesLabelPosition,
) -> Result<(), Box<dyn Error>>
where
    DB: DrawingBackend<ErrorType: 'static> + 'a,
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
    Y: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    let labels = &mut chart.configure_series_labels();
    labels
        .position(position)
        .label_font((FONT, 14))
        .background_style(WHITE.mix(0.85))
        .border_style(GREY.mix(0.4))
        .draw()?;
    Ok(())
}

/// One row per pair, one point per round: filled where it counts, hollow where others used the machine.
fn ratios(pairs: &[Pair]) -> Drawn {
    let all =
        || pairs.iter().flat_map(|pair| &pair.rounds).map(PairRound::ratio).filter(|ratio| ratio.is_finite());
    let right = all().fold(1.2, f64::max) * 1.05;
    let rows = pairs.len() as f64;
    let mut svg = String::new();
    {
        let root =
            SVGBackend::with_string(&mut svg, (SIZE.0, 130 + 44 * pairs.len() as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Rate of the daemon relative to a bare server", (FONT, 18))
            .margin(12)
            .x_label_area_size(44)
            .build_cartesian_2d(0.0..right, -0.6..rows - 0.4)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(GREY.mix(0.12))
            .bold_line_style(GREY.mix(0.3))
            .x_desc("good answers per second, daemon / bare server (1 = as fast; line = target)")
            .x_label_formatter(&|x| format!("{x:.1}"))
            .axis_desc_style((FONT, 15))
            .label_style((FONT, 14))
            .draw()?;
        let target = GREY.stroke_width(2);
        chart.draw_series(LineSeries::new([(RATIO_MIN, -0.6), (RATIO_MIN, rows - 0.4)], target))?;
        for (index, pair) in pairs.iter().enumerate() {
            let y = rows - 1.0 - index as f64;
            // The rows' names stand where no ratio is likely.
            chart.draw_series([Text::new(pair.name(), (0.01, y + 0.16), (FONT, 14))])?;
            let point = |round: &PairRound| {
                let style = if round.is_clean() { OURS.mix(0.55).filled() } else { GREY.stroke_width(1) };
                Circle::new((round.ratio(), y), 4, style)
            };
            chart.draw_series(pair.rounds.iter().filter(|round| round.ratio().is_finite()).map(point))?;
            if let Some(spread) = pair.ratios().or_else(|| pair.all_ratios()) {
                let bar = [(spread.median, y - 0.3), (spread.median, y + 0.3)];
                chart.draw_series(LineSeries::new(bar, BARE.stroke_width(3)))?;
            }
        }
        root.present()?;
    }
    Ok(svg)
}

fn micros(ns: u64) -> f64 {
    ns.max(1) as f64 / 1e3
}

/// Whole decades around the values, or two arbitrary ones around nothing.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    if !low.is_finite() {
        return 10.0..1000.0;
    }
    let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
    low..if high > low { high } else { low * 10.0 }
}

/// `0`, `50`, `90`, `99.9`, … for 1, 2, 10, 1000, ….
fn percentile_label(x: f64) -> String {
    let percent = (1.0 - 1.0 / x) * 100.0;
    let digits = (x.log10().round() as usize).saturating_sub(2);
    format!("{percent:.digits$} %")
}

fn number(value: f64) -> String {
    if value >= 1.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_fit_what_is_shown() {
        assert_eq!(decades([120.0, 3400.0].into_iter()), 100.0..10_000.0);
        assert_eq!(decades([100.0].into_iter()), 100.0..1000.0);
        assert_eq!(decades(std::iter::empty()), 10.0..1000.0);
        let labels = [1.0, 10.0, 100.0, 1000.0, 10_000.0].map(percentile_label);
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
    }
}
