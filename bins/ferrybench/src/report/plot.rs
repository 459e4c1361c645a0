//! SVG drawn by hand: bars, log-log lines, and sheets of them.

use std::fmt::Write;

/// Colours told apart by most eyes, on white as on black.
const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// Dashes of lines.
const DASHES: [&str; 3] = ["none", "7 4", "2 3"];

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Markup of SVG with its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

/// What a sheet is drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// White: for a file of its own, which does not know where it will be shown.
    White,
    /// That of the page around it, in its colour.
    Page,
}

/// Drawings side by side in rows of `columns`, under a line of text if there is one.
pub fn compose(caption: &str, drawings: &[Drawing], columns: usize, ground: Ground) -> String {
    const MARGIN: f64 = 12.0;
    let mut body = String::new();
    let (mut y, mut width) = (MARGIN, 0f64);
    // Writing to a string cannot fail.
    if !caption.is_empty() {
        y += 14.0;
        let _ = writeln!(
            body,
            "<text x=\"{MARGIN}\" y=\"{y}\">{}</text>",
            escape(caption)
        );
        y += 8.0;
        width = 6.0 * caption.chars().count() as f64 + 2.0 * MARGIN;
    }
    for row in drawings.chunks(columns.max(1)) {
        let mut x = MARGIN;
        for drawing in row {
            let Drawing { body: markup, .. } = drawing;
            let _ = writeln!(body, "<g transform=\"translate({x} {y})\">\n{markup}</g>");
            x += drawing.width + MARGIN;
        }
        width = width.max(x);
        y += row.iter().map(|drawing| drawing.height).fold(0.0, f64::max) + MARGIN;
    }
    let (paint, paper) = match ground {
        Ground::Page => ("currentColor", String::new()),
        Ground::White => (
            "#222",
            format!("<rect width=\"{width}\" height=\"{y}\" fill=\"#fff\"/>\n"),
        ),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"{paint}\" color=\"{paint}\">\n{paper}{body}</svg>\n"
    )
}

/// One row of a bar chart: its label, and a value per series, none where there is none.
pub type BarRow = (String, Vec<Option<f64>>);

/// Room for labels left of bars.
const LABEL: f64 = 190.0;
/// Longest bar.
const WIDTH: f64 = 620.0;
/// Height of a bar with the gap below.
const BAR: f64 = 11.0;

/// Horizontal bars in groups, with a line at 1. Bars of more than 20 are cut.
pub fn bars(title: &str, series: &[String], rows: &[BarRow], unit: &str) -> Drawing {
    let values = rows.iter().flat_map(|(_, values)| values.iter().flatten());
    let most = values.copied().fold(1.0, f64::max).min(20.0) * 1.05;
    let group = BAR * series.len() as f64 + 9.0;
    let top = match title {
        "" => 0.0,
        _ => 22.0,
    };
    let height = group * rows.len() as f64 + 40.0 + top;
    let mut svg = String::new();
    if !title.is_empty() {
        let title = escape(title);
        let _ = writeln!(
            svg,
            "<text x=\"0\" y=\"14\" font-size=\"14\">{title}</text>"
        );
    }
    for (i, name) in series.iter().enumerate() {
        let (x, y) = (LABEL + 150.0 * i as f64, top + 4.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            colour(i),
            x + 14.0,
            y + 9.0,
            escape(name)
        );
    }
    for (i, (label, values)) in rows.iter().enumerate() {
        let top = top + 26.0 + group * i as f64;
        let middle = top + BAR * series.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LABEL - 6.0,
            escape(label)
        );
        for (j, value) in values.iter().enumerate() {
            let y = top + BAR * j as f64;
            let Some(value) = value else {
                let _ = writeln!(
                    svg,
                    "<text x=\"{}\" y=\"{}\">-</text>",
                    LABEL + 4.0,
                    y + 9.0
                );
                continue;
            };
            let width = WIDTH * value.min(most) / most;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{value:.2}{unit}</text>",
                BAR - 1.0,
                colour(j),
                LABEL + width + 4.0,
                y + 9.0
            );
        }
    }
    let one = LABEL + WIDTH / most;
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" y1=\"{}\" x2=\"{one:.1}\" y2=\"{}\" stroke=\"currentColor\" stroke-dasharray=\"4 3\"/>",
        top + 20.0,
        height - 8.0
    );
    Drawing {
        width: LABEL + WIDTH + 70.0,
        height,
        body: svg,
    }
}

/// A line of a log-log plot.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Which colour.
    pub colour: usize,
    /// Which dashes.
    pub dashes: usize,
    /// Points; those that are not positive are left out.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    fn positive(&self) -> Vec<(f64, f64)> {
        let points = self.points.iter().copied();
        points.filter(|(x, y)| *x > 0.0 && *y > 0.0).collect()
    }
}

/// Lines over logarithmic axes.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What is on the vertical axis.
    pub title: String,
    /// The lines.
    pub lines: Vec<Line>,
    /// Writes a value of the vertical axis.
    pub show: fn(f64) -> String,
}

/// Plots of the same lines, `columns` side by side, with one legend.
pub fn sheet(caption: &str, plots: &[Plot], columns: usize) -> String {
    let ground = match caption {
        "" => Ground::Page,
        _ => Ground::White,
    };
    let mut drawings: Vec<Drawing> = plots.iter().map(log_log).collect();
    drawings.extend(plots.first().map(legend));
    compose(caption, &drawings, columns, ground)
}

fn legend(plot: &Plot) -> Drawing {
    let mut svg = String::new();
    for (i, line) in plot.lines.iter().enumerate() {
        let y = 16.0 * i as f64 + 12.0;
        let _ = writeln!(
            svg,
            "<line x1=\"60\" y1=\"{0}\" x2=\"96\" y2=\"{0}\" stroke=\"{1}\" stroke-width=\"2\" stroke-dasharray=\"{2}\"/><text x=\"102\" y=\"{3}\">{4}</text>",
            y - 4.0,
            colour(line.colour),
            DASHES[line.dashes % DASHES.len()],
            y,
            escape(&line.name)
        );
    }
    Drawing {
        width: 420.0,
        height: 16.0 * plot.lines.len() as f64 + 8.0,
        body: svg,
    }
}

fn log_log(plot: &Plot) -> Drawing {
    let (left, top, width, height) = (60.0, 24.0, 350.0, 190.0);
    let points: Vec<(f64, f64)> = plot.lines.iter().flat_map(Line::positive).collect();
    let bounds = |pick: fn(&(f64, f64)) -> f64| {
        let logs = points.iter().map(|p| pick(p).log10());
        let (low, high) = logs.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        match low.is_finite() {
            true => (low.floor(), high.ceil().max(low.floor() + 1.0)),
            false => (0.0, 1.0),
        }
    };
    let ((x0, x1), (y0, y1)) = (bounds(|p| p.0), bounds(|p| p.1));
    let x = |v: f64| left + width * (v.log10() - x0) / (x1 - x0);
    let y = |v: f64| top + height * (1.0 - (v.log10() - y0) / (y1 - y0));
    let mut svg = format!(
        "<text x=\"{left}\" y=\"14\" font-size=\"13\">{}</text>\n",
        escape(&plot.title)
    );
    let grid = "stroke=\"currentColor\" stroke-opacity=\"0.2\"";
    for power in x0 as i32..=x1 as i32 {
        let (v, at) = (10f64.powi(power), x(10f64.powi(power)));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{}\" {grid}/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{v}</text>",
            top + height,
            top + height + 14.0
        );
    }
    for power in y0 as i32..=y1 as i32 {
        let (v, at) = (10f64.powi(power), y(10f64.powi(power)));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" {grid}/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + width,
            left - 6.0,
            at + 4.0,
            escape(&(plot.show)(v))
        );
    }
    for line in &plot.lines {
        let colour = colour(line.colour);
        let points: Vec<String> = line
            .positive()
            .iter()
            .map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>",
            points.join(" "),
            DASHES[line.dashes % DASHES.len()]
        );
        for point in &points {
            let (cx, cy) = point.split_once(',').unwrap_or(("0", "0"));
            let _ = writeln!(
                svg,
                "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
    }
    Drawing {
        width: left + width + 20.0,
        height: top + height + 24.0,
        body: svg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_the_markup() {
        let rows = [("b\"&".into(), vec![Some(2.0)]), ("c".into(), vec![None])];
        let drawing = bars("a > b", &["<a>".into()], &rows, "x");
        let svg = compose("<caption>", &[drawing], 1, Ground::White);
        assert!(svg.contains("&lt;a&gt;") && svg.contains("b&quot;&amp;"));
        assert!(svg.contains("&lt;caption&gt;") && svg.contains("a &gt; b"));
        assert!(svg.contains("2.00x") && !svg.contains("NaN"));
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }

    #[test]
    fn decades_are_evenly_spaced() {
        let line = Line {
            name: "save".into(),
            colour: 0,
            dashes: 1,
            points: vec![(1e3, 1e-3), (1e4, 1e-2), (1e5, 1e-1), (1e6, 0.0)],
        };
        let plot = |lines| Plot {
            title: "t".into(),
            lines,
            show: super::super::time,
        };
        let drawing = log_log(&plot(vec![line]));
        // From 1000 at the left to 100000 at the right; zero cannot be drawn.
        assert!(
            drawing
                .body
                .contains("points=\"60.0,214.0 235.0,119.0 410.0,24.0\""),
            "{}",
            drawing.body
        );
        let empty = sheet("", &[plot(Vec::new())], 2);
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
    }

    #[test]
    fn drawings_do_not_overlap() {
        let one = |width, height| Drawing {
            width,
            height,
            body: String::new(),
        };
        let all = [one(100.0, 50.0), one(200.0, 80.0), one(100.0, 50.0)];
        let svg = compose("", &all, 2, Ground::Page);
        for at in ["(12 12)", "(124 12)", "(12 104)"] {
            assert!(svg.contains(&format!("translate{at}")), "{at}: {svg}");
        }
        assert!(svg.contains("viewBox=\"0 0 336 166\""), "{svg}");
    }
}
