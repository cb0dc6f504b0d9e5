//! Plots as SVG.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Outcome;

const SIZE: (u32, u32) = (760, 400);
const FONT: &str = "sans-serif";
/// Of the sides, in their order: we are the first.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1b, 0x6c, 0xc4),
    RGBColor(0xd0, 0x45, 0x3a),
    RGBColor(0xe0, 0x9a, 0x2b),
    RGBColor(0x4c, 0x9a, 0x5c),
    RGBColor(0x7d, 0x57, 0xa8),
    RGBColor(0x70, 0x70, 0x70),
];
/// Of the width of a group, its bars.
const BARS_SHARE: f64 = 0.8;

/// A line, by its name.
pub type Line = (String, Vec<(f64, f64)>);
/// Bars beside each other, by their names.
pub type Group = (String, Vec<(String, f64)>);
/// What an axis is called, and from where to where it goes.
pub type Axis = (&'static str, Range<f64>);

fn colour(side: usize) -> RGBColor {
    COLOURS.get(side % COLOURS.len()).copied().unwrap_or(BLACK)
}

/// Draws onto white, whatever a page's background is.
fn drawn(
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Outcome<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    draw(&area)?;
    area.present()?;
    drop(area);
    Ok(svg)
}

pub fn bars(title: &str, groups: &[Group]) -> Outcome<String> {
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).fold(0.0, f64::max);
    let sides = groups.first().map(|(_, bars)| bars.as_slice()).unwrap_or_default();
    drawn(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 17))
            .margin(12)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..most * 1.3)?;
        let name = |x: &f64| groups.get(x.floor() as usize).map(|(name, _)| name.clone()).unwrap_or_default();
        // Between the bars of the groups the axis has a mark each, which has no text.
        let is_middle = |x: &f64| (x.fract() - 0.5).abs() < 0.01;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(2 * groups.len() + 1)
            .x_label_formatter(&|x| if is_middle(x) { name(x) } else { String::new() })
            .draw()?;
        for (side, (name, _)) in sides.iter().enumerate() {
            let values = groups.iter().enumerate().filter_map(|(group, (_, bars))| Some((group, bars.get(side)?.1)));
            let place = |group: usize| {
                let width = BARS_SHARE / sides.len() as f64;
                let left = group as f64 + (1.0 - BARS_SHARE) / 2.0 + side as f64 * width;
                (left + 0.1 * width, left + 0.9 * width)
            };
            let style = colour(side).filled();
            let bars = values.clone().map(|(group, value)| {
                let (left, right) = place(group);
                Rectangle::new([(left, 0.0), (right, value)], style)
            });
            chart
                .draw_series(bars)?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], style));
            chart.draw_series(values.map(|(group, value)| {
                let text = if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
                Text::new(text, (place(group).0, value + most * 0.06), (FONT, 12))
            }))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).label_font((FONT, 13)).draw()?;
        Ok(())
    })
}

/// With a logarithmic axis upwards if `is_log`.
pub fn lines(title: &str, x: Axis, y: Axis, is_log: bool, lines: &[Line]) -> Outcome<String> {
    drawn(|area| {
        let mut chart = ChartBuilder::on(area);
        chart.caption(title, (FONT, 17)).margin(12).x_label_area_size(40).y_label_area_size(64);
        // The two kinds of axis are different types.
        macro_rules! draw {
            ($range:expr) => {{
                let mut chart = chart.build_cartesian_2d(x.1, $range)?;
                chart.configure_mesh().light_line_style(WHITE).x_desc(x.0).y_desc(y.0).draw()?;
                for (side, (name, points)) in lines.iter().enumerate() {
                    let style = colour(side).stroke_width(2);
                    let line = LineSeries::new(points.iter().copied(), style).point_size(3);
                    let drawn = chart.draw_series(line)?.label(name);
                    drawn.legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
                }
                chart.configure_series_labels().background_style(WHITE.mix(0.8)).label_font((FONT, 13)).draw()?;
            }};
        }
        if is_log {
            draw!(y.1.log_scale());
        } else {
            draw!(y.1);
        }
        Ok(())
    })
}
