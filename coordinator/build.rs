//! Packs what every `report.html` carries: the plotting library (from the crate that ships it), compressed, and the
//! hashes by which the page's policy lets these two scripts run and no other.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::{env, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// The page's own script is one, in parts.
const PARTS: [&str; 9] =
    ["core", "levels", "curve", "time", "inside", "calc", "experiments", "words", "main"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/report/html/page");
    let dir = env::var("OUT_DIR")?;
    let library = library(&plotly::Plot::offline_js_sources())?.to_owned();
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(6));
    packed.write_all(library.as_bytes())?;
    fs::write(Path::new(&dir).join("plotly.b64"), STANDARD.encode(packed.finish()?))?;
    let parts: Result<Vec<String>, _> =
        PARTS.iter().map(|part| fs::read_to_string(format!("src/report/html/page/{part}.js"))).collect();
    let script = parts?.concat();
    fs::write(Path::new(&dir).join("page.js"), &script)?;
    let hashes = [script, library].map(|script| hash(&script));
    fs::write(Path::new(&dir).join("scripts.csp"), hashes.join(" "))?;
    Ok(())
}

/// The first script of the crate's HTML is the library; what follows typesets formulas, which the report has none of.
fn library(html: &str) -> Result<&str, String> {
    let (_, rest) = html.split_once('>').ok_or("no script in what plotly embeds")?;
    let (script, _) = rest.split_once("</script>").ok_or("no end of the script that plotly embeds")?;
    let is_plotly = script.contains("plotly.js") && script.len() > 1 << 20;
    is_plotly.then_some(script).ok_or_else(|| "the script that plotly embeds is another".to_owned())
}

/// As a policy of content names a script.
fn hash(script: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script)))
}
