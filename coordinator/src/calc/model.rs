//! What the calculators need of a model, from its `config.json`: layers, heads, widths, precision, and the number of
//! parameters where its kind is known. The file may be anybody's: what is wrong in it is told in words.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::kv::KvShape;

/// No config of a model is longer.
const MOST_BYTES: u64 = 16 << 20;
/// Layers, heads, widths and experts are at most this.
const MOST_EACH: u64 = 100_000_000;
/// Kinds whose blocks are attention, a gated MLP (or experts of such), and norms: their parameters can be counted.
const GATED: [&str; 9] =
    ["llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi3", "gemma"];

/// Why a config says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// It cannot be read.
    #[error(
        "failed to read {path}: {reason}: give the config.json of a model, or the directory that holds it"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not what it should be.
    #[error("failed to understand {path}: {reason}")]
    Understand {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to try.
        reason: String,
    },
}

/// A model as its config has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// `model_type`; empty where it does not tell.
    pub kind: String,
    /// What its KV cache holds of a token.
    pub kv: KvShape,
    /// How that was found, in words.
    pub kv_words: String,
    /// Parameters counted from the shapes; `None` of a kind that is not known.
    pub params: Option<f64>,
    /// Longest context that it was made for.
    pub max_tokens: Option<u64>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Reads a `config.json`, or that of a directory.
///
/// # Errors
/// What is wrong with it, with what to try.
pub fn read(path: &Path) -> Result<Model, ModelError> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let fail = |reason: String| ModelError::Read { path: path.clone(), reason };
    let facts = std::fs::metadata(&path).map_err(|e| fail(e.to_string()))?;
    if !facts.is_file() || facts.len() > MOST_BYTES {
        return Err(fail(format!("it is no file of at most {} MiB", MOST_BYTES >> 20)));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
    parse(&text).map_err(|reason| ModelError::Understand { path, reason })
}

/// Of the text of a `config.json`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Model, String> {
    let top: Value = serde_json::from_str(text)
        .map_err(|e| format!("it is not JSON at line {} column {}", e.line(), e.column()))?;
    let top = top.as_object().ok_or("it is JSON, but no object, as a model's config.json is")?;
    // A multimodal model keeps its language model in a part of its own.
    let inner = ["text_config", "language_config", "llm_config", "thinker_config"];
    let inner = inner.iter().find_map(|key| top.get(*key)?.as_object());
    let nested = inner.and_then(|inner| inner.get("text_config")?.as_object());
    Fields { inner: nested.or(inner).unwrap_or(top), top }.model()
}

/// The language model's fields, and those around them.
struct Fields<'a> {
    inner: &'a Map<String, Value>,
    top: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.inner.get(key).or_else(|| self.top.get(key)).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// A whole number above 0 by the first of these names that is there.
    fn count(&self, keys: &[&str]) -> Result<Option<u64>, String> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.get(key)?))) else {
            return Ok(None);
        };
        let count = value.as_u64().filter(|n| (1..=MOST_EACH).contains(n));
        count.map(Some).ok_or_else(|| {
            let shown: String = value.to_string().chars().filter(|c| !c.is_control()).take(40).collect();
            format!("{key} is {shown}, and no whole number between 1 and {MOST_EACH}")
        })
    }

    fn needed(&self, keys: &[&str]) -> Result<u64, String> {
        let missing = || {
            format!(
                "it has no {}: give --layers with --hidden, or with --kv-heads and --head-dim",
                keys.join(" or ")
            )
        };
        self.count(keys)?.ok_or_else(missing)
    }

    fn model(&self) -> Result<Model, String> {
        let mut notes = Vec::new();
        let shape = self.shape()?;
        let (bytes_per_value, of) = self.bytes();
        notes.extend(of);
        let (layers, windowed) = self.layers(shape.layers, &mut notes)?;
        if let Some(extra) = self.count(&["num_nextn_predict_layers", "num_mtp_layers"]).ok().flatten() {
            let text = format!(
                "{extra} layers that predict more tokens ahead are left out: with speculative decoding they have a cache too"
            );
            notes.push(text);
        }
        let (values_per_token, kv_words) = self.values(&shape)?;
        Ok(Model {
            kind: self.text("model_type").chars().filter(|c| !c.is_control()).take(40).collect(),
            kv: KvShape { layers, windowed, values_per_token, bytes_per_value },
            kv_words,
            params: self.params(&shape),
            max_tokens: self.count(&["max_position_embeddings", "n_positions", "max_seq_len"]).ok().flatten(),
            notes,
        })
    }

    fn shape(&self) -> Result<Shape, String> {
        let layers = self.needed(&["num_hidden_layers", "n_layer", "num_layers", "n_layers"])?;
        let hidden = self.needed(&["hidden_size", "n_embd", "d_model"])?;
        let heads = self.needed(&["num_attention_heads", "n_head", "n_heads"])?;
        let kv_heads =
            self.count(&["num_key_value_heads", "num_kv_heads", "multi_query_group_num"])?.unwrap_or(heads);
        let head_dim = self.count(&["head_dim", "kv_channels"])?;
        let head_dim = head_dim.unwrap_or(hidden / heads);
        if head_dim == 0 {
            return Err(format!(
                "hidden_size {hidden} is less than its {heads} heads, and there is no head_dim"
            ));
        }
        if kv_heads > heads {
            return Err(format!("{kv_heads} KV heads are more than its {heads} heads"));
        }
        Ok(Shape { layers, hidden, heads, kv_heads, head_dim })
    }

    /// Values that a layer keeps of a token, and how that comes about.
    fn values(&self, shape: &Shape) -> Result<(u64, String), String> {
        if let Some(rank) = self.count(&["kv_lora_rank"])? {
            let rope = self.count(&["qk_rope_head_dim"])?.unwrap_or(0);
            // Keys and values are made anew from one latent, which is all that is kept.
            return Ok((rank + rope, format!("({rank} + {rope}) latent values")));
        }
        let Shape { kv_heads, head_dim, .. } = *shape;
        Ok((2 * kv_heads * head_dim, format!("2 × {kv_heads} KV heads × {head_dim} values")))
    }

    /// Layers that keep all tokens, and those that keep a window.
    fn layers(&self, layers: u64, notes: &mut Vec<String>) -> Result<(u64, Option<(u64, u64)>), String> {
        let window = self.count(&["sliding_window"]).ok().flatten();
        let Some(kinds) = self.get("layer_types").and_then(Value::as_array) else {
            let is_on = self.get("use_sliding_window").and_then(Value::as_bool).unwrap_or(true);
            if let Some(window) = window.filter(|_| is_on) {
                notes.push(format!(
                    "it has a sliding window of {window} tokens and does not tell of which layers: all are taken to keep every token"
                ));
            }
            return Ok((layers, None));
        };
        if kinds.len() as u64 != layers {
            return Err(format!("it has {layers} layers and tells the type of {}", kinds.len()));
        }
        let of = |names: &[&str]| {
            kinds.iter().filter(|k| names.contains(&k.as_str().unwrap_or_default())).count() as u64
        };
        let (sliding, none) =
            (of(&["sliding_attention", "chunked_attention"]), of(&["linear_attention", "mamba", "conv"]));
        if none > 0 {
            notes.push(format!("{none} of {layers} layers keep a state of fixed size, which is left out"));
        }
        let window = window.or(self.count(&["attention_chunk_size"]).ok().flatten());
        Ok(match window.filter(|_| sliding > 0) {
            Some(window) => {
                notes.push(format!("{sliding} of {layers} layers keep {window} tokens at most"));
                (layers - sliding - none, Some((sliding, window)))
            }
            None => (layers - none, None),
        })
    }

    /// Bytes of a value in the cache, which servers keep as the activations are unless told otherwise.
    fn bytes(&self) -> (f64, Option<String>) {
        let name = [self.text("torch_dtype"), self.text("dtype")].into_iter().find(|name| !name.is_empty());
        match name.unwrap_or_default() {
            "float32" => {
                (4.0, Some("float32 by its config: servers mostly load it as 16 bits; --bytes 2".to_owned()))
            }
            "float16" | "bfloat16" => (2.0, None),
            "float8_e4m3fn" | "float8_e5m2" => (1.0, None),
            _ => (
                2.0,
                Some("its config names no known precision: 2 bytes a value are taken; --bytes".to_owned()),
            ),
        }
    }

    /// Counted from the shapes of a known kind: embeddings, attention, gated MLPs or experts of them, norms.
    fn params(&self, shape: &Shape) -> Option<f64> {
        let is_even = |key: &str, usual: Value| self.get(key).is_none_or(|value| *value == usual);
        let all_alike =
            is_even("mlp_only_layers", Value::Array(Vec::new())) && is_even("decoder_sparse_step", 1.into());
        if !GATED.contains(&self.text("model_type")) || self.get("kv_lora_rank").is_some() || !all_alike {
            return None;
        }
        let count = |keys: &[&str]| self.count(keys).ok().flatten().map(|n| n as f64);
        let [hidden, heads, kv_heads, head_dim, layers] =
            [shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.layers].map(|n| n as f64);
        // A config leaves out what is usual of its kind.
        let usual = self.text("model_type") == "gemma";
        let is_tied = self.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(usual);
        let embeddings = count(&["vocab_size"])? * hidden * if is_tied { 1.0 } else { 2.0 };
        let bias = if self.text("model_type").starts_with("qwen2") {
            (heads + 2.0 * kv_heads) * head_dim
        } else {
            0.0
        };
        let attention = 2.0 * hidden * (heads + kv_heads) * head_dim + bias;
        let experts = count(&["num_local_experts", "num_experts", "n_routed_experts"]);
        let mlp = match experts {
            Some(experts) => {
                let each = count(&["moe_intermediate_size"]).or_else(|| count(&["intermediate_size"]))?;
                let shared =
                    count(&["shared_expert_intermediate_size"]).map_or(0.0, |s| 3.0 * hidden * s + hidden);
                experts * 3.0 * hidden * each + experts * hidden + shared
            }
            None => 3.0 * hidden * count(&["intermediate_size"])?,
        };
        let norms = if self.text("model_type").starts_with("qwen3") {
            2.0 * (hidden + head_dim)
        } else {
            2.0 * hidden
        };
        Some(embeddings + layers * (attention + mlp + norms) + hidden)
    }
}

/// Sizes that every decoder has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layers: u64,
    hidden: u64,
    heads: u64,
    kv_heads: u64,
    head_dim: u64,
}
