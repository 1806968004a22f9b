// SPDX-License-Identifier: MIT OR Apache-2.0
//! The curves of growth as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::growth::{Curve, FUNCTIONS, Point, RULES, SELECTORS};

const SIZE: (u32, u32) = (1200, 420);
/// The floor's scan, then the kinds of rules in their order.
const COLOURS: [RGBColor; 5] = [
    RGBColor(90, 90, 90),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// Draws one value of all curves over the number of functions, a panel for each number of rules.
pub fn draw(path: &Path, unit: &str, curves: &[Curve], value: fn(&Point) -> f64) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", path.display());
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let values = || curves.iter().flat_map(|curve| &curve.points).map(value);
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    for (panel, rules) in root.split_evenly((1, RULES.len())).iter().zip(RULES) {
        let title = if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") };
        let across = FUNCTIONS[0].into()..FUNCTIONS[FUNCTIONS.len() - 1].into();
        let mut chart = ChartBuilder::on(panel)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(across.log_scale(), (low / 2.0..high * 2.0).log_scale())
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("functions on the bus")
            .y_desc(unit)
            .draw()
            .map_err(|error| failed(&error))?;
        for curve in curves {
            let (colour, name) = match curve.of {
                None => (COLOURS[0], "floor's scan"),
                Some((selector, count)) if count == rules => {
                    let known = SELECTORS.iter().zip(&COLOURS[1..]);
                    let mut same = known.filter(|((kind, _), _)| *kind == selector);
                    let ((_, name), colour) =
                        same.next().ok_or_else(|| anyhow!("no such curve"))?;
                    (*colour, *name)
                }
                Some(_) => continue,
            };
            let points =
                curve.points.iter().map(|point| (f64::from(point.functions), value(point)));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))
                .map_err(|error| failed(&error))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()
            .map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}
