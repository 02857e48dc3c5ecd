//! The comparison as plots: what each trace's heaps held over its calls, and bars of time, instructions and fragmentation.
//!
//! Lines and bars are drawn by a library; sizes of text follow from it, so that nothing here needs a font.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::subject::NAMES;
use super::told::{multiple, ratio, title};
use super::{Comparison, TraceCell, TraceRow};
use crate::cli::BenchConfig;

/// Errors come from files and from a plot's coordinates.
type Outcome = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// SLUB, SLAB, SLOB: told apart in grey, too, and by those who do not see all colours.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 90, 160), RGBColor(230, 150, 30), RGBColor(140, 40, 90)];
const LIVE: RGBColor = RGBColor(150, 150, 150);
const FONT: &str = "sans-serif";
const KIB: f64 = 1024.0;

/// A group of bars: its name, and a value for each engine.
type Group = (String, [Option<f64>; 3]);

/// Draws all plots into a directory, as `<kernel|user>-<what>.svg`.
///
/// # Errors
/// A file cannot be written.
pub(super) fn draw(directory: &Path, all: &[Comparison]) -> Outcome {
    fs::create_dir_all(directory)?;
    for found in all {
        let kind = if found.config == BenchConfig::Kernel { "kernel" } else { "user" };
        let file = |what: &str| directory.join(format!("{kind}-{what}.svg"));
        let against_slub = |get: fn(&super::Cell) -> Option<f64>| -> Vec<Group> {
            let groups = found.rows.iter().map(|row| {
                let values = row.cells.each_ref().map(get);
                (row.name.to_owned(), values.map(|value| multiple(value, values[0])))
            });
            groups.filter(|(_, values)| values[0].is_some()).collect()
        };
        let heading = |what: &str| format!("{what}, {}", title(found.config));
        bars(&file("time"), &heading("Time, x of SLUB's"), &against_slub(|cell| Some(cell.ns)))?;
        let counted = against_slub(|cell| cell.instructions);
        if !counted.is_empty() {
            bars(&file("instructions"), &heading("Instructions, x of SLUB's"), &counted)?;
        }
        if !found.traces.is_empty() {
            let at_peak = |cell: &TraceCell| ratio(cell.held.memory.at_peak);
            // The most that was ever held, in multiples of the most that was alive.
            let most = |cell: &TraceCell| {
                let (held, live) = (cell.held.memory.most_held, cell.held.memory.at_peak.live);
                (live > 0).then(|| held as f64 / live as f64)
            };
            let mut groups = Vec::new();
            for row in &found.traces {
                groups.push((format!("{} peak", row.name), row.cells.each_ref().map(at_peak)));
                groups.push((format!("{} most", row.name), row.cells.each_ref().map(most)));
            }
            bars(&file("fragmentation"), &heading("Held, x of what was alive at the peak"), &groups)?;
        }
        for row in &found.traces {
            over_calls(
                &file(&format!("trace-{}", row.name)),
                &heading(&format!("Memory of {}", row.name)),
                row,
            )?;
        }
    }
    Ok(())
}

/// Names and colours, in a line below the heading.
fn legend(area: &Area<'_>, entries: &[(&str, RGBColor)]) -> Outcome {
    const STEP: i32 = 90;
    let y = 42;
    for (x, (name, colour)) in (60..).step_by(STEP as usize).zip(entries) {
        area.draw(&Rectangle::new([(x, y), (x + 14, y + 10)], colour.filled()))?;
        area.draw(&Text::new((*name).to_owned(), (x + 20, y - 2), (FONT, 14)))?;
    }
    Ok(())
}

fn heading(area: &Area<'_>, text: &str) -> Outcome {
    area.fill(&WHITE)?;
    area.draw(&Text::new(text.to_owned(), (60, 12), (FONT, 19)))?;
    Ok(())
}

/// Groups of horizontal bars, a number at the end of each. Multiples: the axis is logarithmic, and bars begin at 1.
fn bars(file: &Path, title: &str, groups: &[Group]) -> Outcome {
    const BAR: usize = 13;
    const GAP: usize = 11;
    const TOP: usize = 66;
    const LEFT: i32 = 150;
    const WIDTH: usize = 860;
    let height = TOP + groups.len() * (3 * BAR + GAP) + 30;
    let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    heading(&area, title)?;
    let entries: Vec<(&str, RGBColor)> = NAMES.into_iter().zip(COLOURS).collect();
    legend(&area, &entries)?;

    let values = groups.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let (least, most) =
        values.fold((1.0_f64, 1.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    // Room for the number behind the longest bar.
    let (least, most) = (least / 1.05, (most * 1.05).max(1.5));
    let room = WIDTH as f64 - f64::from(LEFT) - 70.0;
    let at = |value: f64| LEFT + ((value / least).ln() / (most / least).ln() * room) as i32;
    let bottom = (height - 26) as i32;
    for tick in ticks(least, most) {
        area.draw(&PathElement::new(
            vec![(at(tick), TOP as i32 - 6), (at(tick), bottom)],
            if tick == 1.0 { BLACK.mix(0.8) } else { BLACK.mix(0.15) },
        ))?;
        area.draw(&Text::new(format!("{tick}"), (at(tick) - 6, bottom + 6), (FONT, 13)))?;
    }
    for (number, (name, values)) in groups.iter().enumerate() {
        let top = (TOP + number * (3 * BAR + GAP)) as i32;
        area.draw(&Text::new(name.clone(), (10, top + BAR as i32), (FONT, 14)))?;
        for ((place, value), colour) in (0..).zip(values).zip(COLOURS) {
            let y = top + place * BAR as i32;
            let Some(value) = *value else { continue };
            let (from, to) = (at(1.0).min(at(value)), at(1.0).max(at(value)));
            area.draw(&Rectangle::new([(from, y), (to.max(from + 1), y + BAR as i32 - 2)], colour.filled()))?;
            area.draw(&Text::new(format!("{value:.2}"), (to + 5, y - 1), (FONT, 12)))?;
        }
    }
    area.present()?;
    Ok(())
}

/// 1, 2 and 5 times the powers of ten in a range; fewer where it is wide.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let steps: &[f64] = if most / least > 200.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = (-2..7).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
    // Powers of ten are not exact below 1; what is printed is.
    powers.map(|tick| (tick * 100.0).round() / 100.0).filter(|tick| (least..=most).contains(tick)).collect()
}

/// What was live and what each engine held, over the calls of a trace.
fn over_calls(file: &Path, title: &str, row: &TraceRow) -> Outcome {
    let area = SVGBackend::new(file, (860, 400)).into_drawing_area();
    heading(&area, title)?;
    let mut entries = vec![("live", LIVE)];
    entries.extend(NAMES.into_iter().zip(COLOURS));
    legend(&area, &entries)?;
    let (_, below) = area.split_vertically(62);
    let most = row.cells.iter().map(|cell| cell.held.memory.most_held).max().unwrap_or(0);
    let most = (most.max(row.about.peak) as f64 / KIB * 1.05).max(1.0);
    let calls = row.about.calls as f64;
    let mut chart = ChartBuilder::on(&below)
        .margin_left(16)
        .margin_right(20)
        .x_label_area_size(38)
        .y_label_area_size(66)
        .build_cartesian_2d(0.0..calls.max(1.0), 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc("calls")
        .y_desc("KiB")
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    let live =
        row.cells[0].held.memory.series.iter().map(|point| (point.call as f64, point.live as f64 / KIB));
    let outline = [(0.0, 0.0)].into_iter().chain(live).chain([(calls, 0.0)]);
    chart.draw_series([Polygon::new(outline.collect::<Vec<_>>(), LIVE.mix(0.45))])?;
    for (cell, colour) in row.cells.iter().zip(COLOURS) {
        let held = cell.held.memory.series.iter().map(|point| (point.call as f64, point.held as f64 / KIB));
        chart.draw_series(LineSeries::new(held, colour.stroke_width(2)))?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample;

    #[test]
    fn plots_have_what_was_measured() {
        let directory = std::env::temp_dir().join(format!("kmem-plot-{}", std::process::id()));
        draw(&directory, &[sample::comparison()]).unwrap();
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
        let time = read("kernel-time.svg");
        for part in ["object_64", "pipe_64", "24.00", "0.50", "slab", "the kernel&apos;s limits"] {
            assert!(time.contains(part), "{part}");
        }
        let instructions = read("kernel-instructions.svg");
        assert!(
            instructions.contains("object_64") && !instructions.contains("pipe_64"),
            "it was not counted"
        );
        assert!(read("kernel-fragmentation.svg").contains("8.19"));
        let trace = read("kernel-trace-prog.svg");
        for RGBColor(red, green, blue) in COLOURS {
            let colour = format!("stroke=\"#{red:02X}{green:02X}{blue:02X}\"");
            let lines = trace.lines().filter(|line| line.starts_with("<polyline") && line.contains(&colour));
            assert_eq!(lines.count(), 1, "{colour}");
        }
        assert!(trace.contains("<polygon"));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn ticks_lie_in_the_range_and_have_one() {
        assert_eq!(ticks(0.5, 5.0), [0.5, 1.0, 2.0, 5.0]);
        assert_eq!(ticks(0.9, 900.0), [1.0, 10.0, 100.0]);
    }
}
