//! Reads one chat or completions payload: how much text, which usage, did it end.
