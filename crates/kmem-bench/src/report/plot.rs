//! A picture of a table: a line for each row, a dot for each allocator where its number lies beside the system's.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::contest::Results;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn std::error::Error>>;

const FONT: &str = "sans-serif";
const KMEM: RGBColor = RGBColor(200, 30, 30);
/// Told apart by colour and, as there are more allocators than colours, by shape.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 160),
    RGBColor(230, 150, 30),
    RGBColor(60, 140, 80),
    RGBColor(140, 40, 90),
    RGBColor(90, 170, 210),
    RGBColor(110, 110, 110),
];
const LEFT: i32 = 130;
const WIDTH: i32 = 900;
const STEP: i32 = 16;
/// Entries of the legend in a line.
const ENTRIES: usize = 6;
/// Ratios beyond these are drawn at the edge.
const RANGE: (f64, f64) = (0.02, 50.0);

/// Where a ratio lies.
fn x(ratio: f64) -> i32 {
    let part = (ratio.clamp(RANGE.0, RANGE.1) / RANGE.0).ln() / (RANGE.1 / RANGE.0).ln();
    LEFT + (part * f64::from(WIDTH - LEFT - 20)) as i32
}

/// An allocator's mark: the system's are at 1 and need none. A floor is an upright line, nearer to black the more it does.
fn mark(area: &Area<'_>, place: (i32, i32), allocator: usize, results: &Results) -> Outcome {
    let (x, y) = place;
    let colour = COLOURS[allocator % COLOURS.len()];
    let kmem = results.kmem() == Some(allocator);
    match allocator / COLOURS.len() {
        _ if results.allocators[allocator].is_floor() => {
            let before = results.allocators[..allocator].iter().filter(|other| other.is_floor()).count();
            let shade = BLACK.mix([0.4, 0.7, 1.0][before.min(2)]);
            area.draw(&PathElement::new(vec![(x, y - 6), (x, y + 6)], shade.stroke_width(2)))?;
        }
        _ if kmem => area.draw(&Circle::new(place, 5, KMEM.filled()))?,
        0 => area.draw(&Circle::new(place, 3, colour.filled()))?,
        1 => area.draw(&TriangleMarker::new((x, y + 1), 4, colour.filled()))?,
        _ => area.draw(&Cross::new(place, 3, colour))?,
    }
    Ok(())
}

/// Draws the picture.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn plot(file: &Path, results: &Results) -> Outcome {
    let others: Vec<usize> = (1..results.allocators.len()).collect();
    let top = 60 + 18 * others.len().div_ceil(ENTRIES) as i32;
    let height = top + STEP * results.lines.len() as i32 + 40;
    let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |text: &str, place: (i32, i32), size: i32| {
        area.draw(&Text::new(text.to_owned(), place, (FONT, size)))
    };
    text("Each row's number over the system's malloc: further left is better", (20, 12), 18)?;
    let kmem = results.kmem();
    for (entry, &at) in others.iter().enumerate() {
        let place = (LEFT + 125 * (entry % ENTRIES) as i32, 46 + 18 * (entry / ENTRIES) as i32);
        mark(&area, place, at, results)?;
        text(&results.allocators[at].name, (place.0 + 9, place.1 - 7), 13)?;
    }
    let bottom = height - 30;
    for tick in [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0] {
        let shade = if tick == 1.0 { BLACK.mix(0.8) } else { BLACK.mix(0.12) };
        area.draw(&PathElement::new(vec![(x(tick), top - 8), (x(tick), bottom)], shade))?;
        text(&format!("{tick}"), (x(tick) - 8, bottom + 6), 13)?;
    }
    let mut group = "";
    for (number, line) in (0..).zip(&results.lines) {
        let y = top + STEP * number;
        if line.group != group && number > 0 {
            let between = y - STEP / 2;
            area.draw(&PathElement::new(vec![(10, between), (WIDTH - 10, between)], BLACK.mix(0.4)))?;
        }
        group = line.group;
        text(line.row.name, (10, y - 7), 13)?;
        area.draw(&PathElement::new(vec![(LEFT, y), (WIDTH - 20, y)], BLACK.mix(0.08)))?;
        let Some(system) = line.median(0).filter(|&system| system > 0.0) else { continue };
        // kmem's last: over the others'.
        for at in others.iter().copied().filter(|&at| Some(at) != kmem).chain(kmem) {
            if let Some(value) = line.median(at) {
                mark(&area, (x(value / system), y), at, results)?;
            }
        }
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_mark_lies_where_its_ratio_is() {
        let file = std::env::temp_dir().join(format!("kmem-bench-plot-{}.svg", std::process::id()));
        let results = sample(&[8.0], &[4.0]);
        plot(&file, &results).unwrap();
        let picture = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(picture.contains(results.lines[0].row.name));
        // In the legend, and in the row.
        let marks: Vec<&str> = picture.lines().filter(|line| line.contains("#C81E1E")).collect();
        assert_eq!(marks.len(), 2, "{marks:?}");
        assert!(marks[1].contains(&format!("cx=\"{}\"", x(0.5))), "{marks:?}");
        // A floor is a line of one upright stroke.
        let runs = [8.0, 4.0, 2.0].map(|number| vec![number]).to_vec();
        let line = crate::contest::Line { row: results.lines[0].row, group: "small", runs };
        plot(&file, &crate::contest::sample(&["system", "kmem", "barest"], vec![line])).unwrap();
        let picture = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let at = x(0.25);
        assert!(
            picture
                .lines()
                .any(|line| line.contains("polyline") && line.matches(&format!("{at},")).count() == 2)
        );
        assert!(x(0.0001) == x(RANGE.0) && x(1e9) == x(RANGE.1) && x(0.5) < x(1.0));
    }
}
