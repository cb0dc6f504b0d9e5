//! Plots as SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Outcome;

const SIZE: (u32, u32) = (760, 400);
/// Of the part at the right, in pixels.
const LEGEND_WIDTH: u32 = 150;
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

/// Beside the plot, where nothing is covered by it.
fn legend<'a>(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let left = SIZE.0 as i32 - LEGEND_WIDTH as i32 + 8;
    for (side, name) in names.enumerate() {
        let top = 48 + 22 * side as i32;
        area.draw(&Rectangle::new([(left, top), (left + 12, top + 12)], colour(side).filled()))?;
        area.draw(&Text::new(name.to_owned(), (left + 18, top), (FONT, 13)))?;
    }
    Ok(())
}

/// Without a fraction where it has none.
fn short(figure: &f64) -> String {
    format!("{figure}")
}

pub fn bars(title: &str, groups: &[Group]) -> Outcome<String> {
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).fold(0.0, f64::max);
    let sides = groups.first().map(|(_, bars)| bars.as_slice()).unwrap_or_default();
    drawn(|area| {
        legend(area, sides.iter().map(|(name, _)| name.as_str()))?;
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 17))
            .margin(12)
            .margin_right(LEGEND_WIDTH)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..most * 1.1)?;
        let name = |x: &f64| groups.get(x.floor() as usize).map(|(name, _)| name.clone()).unwrap_or_default();
        // Between the groups the axis has marks too, which have no text.
        let is_middle = |x: &f64| (x.fract() - 0.5).abs() < 0.01;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(2 * groups.len() + 1)
            .x_label_formatter(&|x| if is_middle(x) { name(x) } else { String::new() })
            .y_label_formatter(&short)
            .draw()?;
        let width = BARS_SHARE / sides.len().max(1) as f64;
        for (group, (_, bars)) in groups.iter().enumerate() {
            for (side, (_, value)) in bars.iter().enumerate() {
                let left = group as f64 + (1.0 - BARS_SHARE) / 2.0 + side as f64 * width;
                let corners = [(left + 0.1 * width, 0.0), (left + 0.9 * width, *value)];
                chart.draw_series([Rectangle::new(corners, colour(side).filled())])?;
                let digits = match *value {
                    ..10.0 => 2,
                    ..100.0 => 1,
                    _ => 0,
                };
                let text = format!("{value:.digits$}");
                chart.draw_series([Text::new(text, (left + 0.1 * width, value + most * 0.05), (FONT, 12))])?;
            }
        }
        Ok(())
    })
}

/// With a logarithmic axis upwards, of whole powers of ten.
pub fn lines(title: &str, [x_name, y_name]: [&str; 2], lines: &[Line]) -> Outcome<String> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let least = points().map(|(_, y)| *y).fold(f64::INFINITY, f64::min);
    let most = points().map(|(_, y)| *y).fold(1.0, f64::max);
    let (bottom, top) = (10f64.powf(least.min(most).log10().floor()), 10f64.powf(most.log10().ceil()));
    drawn(|area| {
        legend(area, lines.iter().map(|(name, _)| name.as_str()))?;
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 17))
            .margin(12)
            .margin_right(LEGEND_WIDTH)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..right * 1.05, (bottom..top).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .x_desc(x_name)
            .y_desc(y_name)
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .draw()?;
        for (side, (_, points)) in lines.iter().enumerate() {
            let style = colour(side).stroke_width(2);
            chart.draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?;
        }
        Ok(())
    })
}
