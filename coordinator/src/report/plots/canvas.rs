//! The paper of a picture: its frame, its text and its shapes.

use std::fmt::Write;

use crate::report::text::markup;

/// Okabe and Ito's colours, which the colour-blind tell apart; yellow and black, which vanish on one of the grounds, left
/// out. Beyond them dashes tell lines apart.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const STYLE: &str = "<style>.bg{fill:#fff}text{font-size:12px;fill:#222}.t{font-size:16px;font-weight:600}.s{fill:#666}\
    .e{text-anchor:end}.m{text-anchor:middle}path{fill:none;stroke-width:2}.g{stroke:#ddd;stroke-width:1}\
    .a{stroke:#888;stroke-width:1}.l{stroke:#222}.box{fill:#0072b2;fill-opacity:.25;stroke:#0072b2}.bar{fill:#0072b2}\
    .none{fill:#eee}@media(prefers-color-scheme:dark){.bg{fill:#14171c}text{fill:#e6e6e6}.s{fill:#a0a4aa}\
    .g{stroke:#31363e}.l{stroke:#e6e6e6}.none{fill:#262a31}}</style>";

/// A picture under way.
pub(super) struct Canvas {
    text: String,
}

/// Where values lie on the paper.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Values at its left and right edge.
    pub(super) x: (f64, f64),
    /// Values at its lower and upper edge.
    pub(super) y: (f64, f64),
}

impl Frame {
    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |v: f64, (low, high): (f64, f64)| {
            if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
        };
        (self.left + share(x, self.x) * self.width, self.top + (1.0 - share(y, self.y)) * self.height)
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }
}

impl Canvas {
    /// With a title that is seen, and a description that is read out.
    pub(super) fn new((width, height): (f64, f64), title: &str, run: &str, description: &str) -> Self {
        let (name, said) = (markup(title), markup(description));
        let mut canvas = Self {
            text: format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
                 role=\"img\" aria-labelledby=\"name said\" font-family=\"system-ui,sans-serif\">\n<title id=\"name\">{name}</title>\n\
                 <desc id=\"said\">{said}</desc>\n{STYLE}\n<rect class=\"bg\" width=\"100%\" height=\"100%\"/>\n"
            ),
        };
        canvas.label((24.0, 28.0), "t", title);
        canvas.label((24.0, 46.0), "s", run);
        canvas
    }

    pub(super) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    pub(super) fn label(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let text = markup(text);
        let _infallible =
            writeln!(self.text, "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>");
    }

    /// A box with what it stands for, which a pointer shows.
    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), paint: &str, means: &str) {
        let means = markup(means);
        let _infallible = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" {paint}><title>{means}</title></rect>"
        );
    }

    pub(super) fn stroke(&mut self, path: &str, paint: &str) {
        let _infallible = writeln!(self.text, "<path d=\"{path}\" {paint}/>");
    }

    pub(super) fn dot(&mut self, (x, y): (f64, f64), colour: &str, means: &str) {
        let means = markup(means);
        let _infallible = writeln!(
            self.text,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{means}</title></circle>"
        );
    }

    /// One series over a frame; what is absent breaks the line. `means` names a point.
    pub(super) fn series(
        &mut self,
        frame: &Frame,
        points: &[(f64, Option<f64>)],
        (colour, dashed): (&str, bool),
        means: impl Fn(usize, f64) -> String,
    ) {
        let (mut path, mut is_drawn) = (String::new(), false);
        for &(x, y) in points {
            if let Some(y) = y {
                let (x, y) = frame.at(x, y);
                let _infallible = write!(path, "{}{x:.1} {y:.1}", if is_drawn { "L" } else { "M" });
            }
            is_drawn = y.is_some();
        }
        let dash = if dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        if !path.is_empty() {
            self.stroke(&path, &format!("stroke=\"{colour}\"{dash}"));
        }
        for (i, &(x, y)) in points.iter().enumerate() {
            if let Some(y) = y {
                self.dot(frame.at(x, y), colour, &means(i, y));
            }
        }
    }

    /// The frame's own lines: values of y at round numbers, and a title over it.
    pub(super) fn scale(&mut self, frame: &Frame, title: &str, unit: &str) {
        self.label((frame.left, frame.top - 10.0), "s", title);
        for value in ticks(frame.y.0, frame.y.1) {
            let (_, y) = frame.at(frame.x.0, value);
            self.stroke(&format!("M{:.1} {y:.1}H{:.1}", frame.left, frame.right()), "class=\"g\"");
            self.label((frame.left - 6.0, y + 4.0), "e s", &plain(value));
        }
        self.label((frame.left - 6.0, frame.top - 10.0), "e s", unit);
        let (left, top, bottom, right) = (frame.left, frame.top, frame.bottom(), frame.right());
        self.stroke(&format!("M{left:.1} {top:.1}V{bottom:.1}H{right:.1}"), "class=\"a\"");
    }

    /// Names under a frame at values of x, and what they are.
    pub(super) fn names(&mut self, frame: &Frame, names: &[(f64, String)], what: &str) {
        let mut free = f64::NEG_INFINITY;
        for (value, name) in names {
            let (x, _) = frame.at(*value, frame.y.0);
            // One that would lie over its neighbour is left out.
            let half = 4.0 * name.chars().count() as f64;
            if x - half >= free {
                self.label((x, frame.bottom() + 18.0), "m s", name);
                free = x + half + 4.0;
            }
        }
        self.label((frame.left + frame.width / 2.0, frame.bottom() + 36.0), "m s", what);
    }
}

/// Colour of a series.
pub(super) fn colour(i: usize) -> &'static str {
    COLOURS[i % COLOURS.len()]
}

/// Round values from low to high, four to eight of them.
pub(super) fn ticks(low: f64, high: f64) -> Vec<f64> {
    let span = high - low;
    if !(span > 0.0 && span.is_finite()) {
        return vec![low];
    }
    let rough = span / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A tick's number without the noise of its fraction.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// By what times in ns are divided so that they read well up to `most`, and the unit then.
pub(super) fn unit(most_ns: f64) -> (f64, &'static str) {
    if most_ns < 1e6 {
        (1e3, "µs")
    } else if most_ns < 2e9 {
        (1e6, "ms")
    } else {
        (1e9, "s")
    }
}
