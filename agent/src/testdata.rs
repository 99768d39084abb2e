//! Replies of real servers, for tests (see `testdata/README.md`).

/// Each recorded stream, and whether it is of the chat endpoint.
pub(crate) const STREAMS: [(&str, bool); 4] = [
    ("llama-cpp-chat-stream", true),
    ("llama-cpp-completions-stream", false),
    ("vllm-0.32-chat-stream", true),
    ("vllm-0.32-completions-stream", false),
];

/// The whole recording: head, where it was kept, and body.
pub(crate) fn whole(name: &str) -> &'static str {
    match name {
        "llama-cpp-chat-stream" => include_str!("../testdata/llama-cpp-chat-stream.txt"),
        "llama-cpp-completions-stream" => include_str!("../testdata/llama-cpp-completions-stream.txt"),
        "vllm-0.32-chat-stream" => include_str!("../testdata/vllm-0.32-chat-stream.txt"),
        "vllm-0.32-completions-stream" => include_str!("../testdata/vllm-0.32-completions-stream.txt"),
        "llama-cpp-error-400" => include_str!("../testdata/llama-cpp-error-400.txt"),
        "vllm-0.32-error-400" => include_str!("../testdata/vllm-0.32-error-400.txt"),
        "vllm-0.32-error-404" => include_str!("../testdata/vllm-0.32-error-404.txt"),
        other => panic!("no recording {other}"),
    }
}

/// The body alone.
pub(crate) fn body(name: &str) -> &'static str {
    let whole = whole(name);
    whole.split_once("\r\n\r\n").map_or(whole, |(_, body)| body)
}
