//! Everything, for later comparison.

use serde_json::{Map, Value, json};

use crate::contest::{Results, Standing};

/// `{"shown": [allocator], "rows": [{"name", "unit", "group", "what", "results": {allocator: {"median", "runs"}}}]}`; the first allocator
/// is the system's, and kmem is not held against those that are only shown.
pub(crate) fn json(results: &Results) -> String {
    let rows: Vec<Value> = results
        .lines
        .iter()
        .map(|line| {
            let mut found = Map::new();
            for (at, allocator) in results.allocators.iter().enumerate() {
                if let Some(median) = line.median(at) {
                    found.insert(allocator.name.clone(), json!({"median": median, "runs": line.runs[at]}));
                }
            }
            let row = line.row;
            json!({"name": row.name, "unit": row.unit.name(), "group": line.group, "what": row.what, "results": found})
        })
        .collect();
    let rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    let shown = results.allocators.iter().filter(|allocator| allocator.standing != Standing::Rival);
    let shown: Vec<Value> = shown.map(|allocator| allocator.name.clone().into()).collect();
    format!("{{\"shown\": {}, \"rows\": [\n{}\n]}}\n", Value::from(shown), rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let read: Value = serde_json::from_str(&json(&sample(&[4.0, 6.0, 5.0], &[2.0, 1.0, 3.0]))).unwrap();
        let found = &read["rows"][0]["results"];
        assert_eq!(found["kmem"], json!({"median": 2.0, "runs": [2.0, 1.0, 3.0]}));
        assert_eq!(found["system"]["median"], 5.0);
        assert_eq!(read["shown"], json!([]));
    }
}
