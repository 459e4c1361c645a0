//! SVG drawn by hand: bars and log-log lines.

use std::fmt::Write;

/// Colours told apart by most eyes, on white as on black.
pub const COLOURS: [&str; 6] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9",
];

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// One row of a bar chart: its label, and a value per series, none where there is none.
pub type BarRow = (String, Vec<Option<f64>>);

const LABEL: f64 = 190.0;
const WIDTH: f64 = 620.0;
const BAR: f64 = 11.0;

/// Horizontal bars in groups, with a line at 1.
pub fn bars(series: &[String], rows: &[BarRow], unit: &str) -> String {
    let values = rows.iter().flat_map(|(_, values)| values.iter().flatten());
    let most = values.copied().fold(1.0, f64::max).min(20.0) * 1.05;
    let group = BAR * series.len() as f64 + 9.0;
    let height = group * rows.len() as f64 + 40.0;
    let total = LABEL + WIDTH + 70.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {height}\" width=\"{total}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"currentColor\">\n"
    );
    // Writing to a string cannot fail.
    for (i, name) in series.iter().enumerate() {
        let x = LABEL + 150.0 * i as f64;
        let colour = COLOURS[i % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"4\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"13\">{}</text>",
            x + 14.0,
            escape(name)
        );
    }
    for (i, (label, values)) in rows.iter().enumerate() {
        let top = 26.0 + group * i as f64;
        let middle = top + BAR * series.len() as f64 / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
            LABEL - 6.0,
            escape(label)
        );
        for (j, value) in values.iter().enumerate() {
            let y = top + BAR * j as f64;
            let colour = COLOURS[j % COLOURS.len()];
            let Some(value) = value else {
                let _ = writeln!(svg, "<text x=\"{LABEL}\" y=\"{}\">failed</text>", y + 9.0);
                continue;
            };
            let width = WIDTH * value.min(most) / most;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{value:.2}{unit}</text>",
                BAR - 1.0,
                LABEL + width + 4.0,
                y + 9.0
            );
        }
    }
    let one = LABEL + WIDTH / most;
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" y1=\"20\" x2=\"{one:.1}\" y2=\"{}\" stroke=\"currentColor\" stroke-dasharray=\"4 3\"/>\n</svg>",
        height - 8.0
    );
    svg
}

/// A line of a log-log plot.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Points; those that are not positive are left out.
    pub points: Vec<(f64, f64)>,
}

/// Lines over logarithmic axes; `show` writes a value of the vertical axis.
pub fn log_log(title: &str, lines: &[Line], show: fn(f64) -> String) -> String {
    let (left, top, width, height) = (80.0, 30.0, 520.0, 260.0);
    let positive = |line: &Line| -> Vec<(f64, f64)> {
        let points = line.points.iter().copied();
        points.filter(|(x, y)| *x > 0.0 && *y > 0.0).collect()
    };
    let points: Vec<(f64, f64)> = lines.iter().flat_map(positive).collect();
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
    let total = top + height + 30.0 + 16.0 * lines.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 {total}\" width=\"640\" font-family=\"sans-serif\" font-size=\"11\" fill=\"currentColor\">\n<text x=\"{left}\" y=\"18\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    let grid = "stroke=\"currentColor\" stroke-opacity=\"0.2\"";
    for power in x0 as i32..=x1 as i32 {
        let (v, at) = (10f64.powi(power), x(10f64.powi(power)));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{}\" {grid}/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{v}</text>",
            top + height,
            top + height + 15.0
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
            escape(&show(v))
        );
    }
    for (i, line) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = positive(line)
            .iter()
            .map(|(px, py)| format!("{:.1},{:.1}", x(*px), y(*py)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            let (cx, cy) = point.split_once(',').unwrap_or(("0", "0"));
            let _ = writeln!(
                svg,
                "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
        let at = top + height + 34.0 + 16.0 * i as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"{at}\">{}</text>",
            at - 9.0,
            left + 14.0,
            escape(&line.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_the_markup() {
        let svg = bars(&["<a>".into()], &[("b\"&".into(), vec![Some(2.0)])], "x");
        assert!(svg.contains("&lt;a&gt;") && svg.contains("b&quot;&amp;"));
        assert!(svg.contains("2.00x") && !svg.contains("NaN"));
    }

    #[test]
    fn decades_are_evenly_spaced() {
        let line = Line {
            name: "save".into(),
            points: vec![(1e3, 1e-3), (1e4, 1e-2), (1e5, 1e-1), (1e6, 0.0)],
        };
        let svg = log_log("t", &[line], super::super::time);
        // From 1000 at the left to 100000 at the right; zero cannot be drawn.
        assert!(
            svg.contains("points=\"80.0,290.0 340.0,160.0 600.0,30.0\""),
            "{svg}"
        );
        let empty = log_log("t", &[], super::super::time);
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
    }
}
