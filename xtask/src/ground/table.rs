// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain tables for people.

use comfy_table::{ContentArrangement, Table, presets};

/// A table without lines, so that it can be pasted anywhere.
pub fn plain<'a>(
    header: impl IntoIterator<Item = &'a str>,
    rows: impl IntoIterator<Item = impl IntoIterator<Item = String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["01:00.0", "vfio-pci"].map(str::to_owned), ["a", ""].map(str::to_owned)];
        assert_eq!(
            plain(["function", "driver"], rows),
            "function  driver\n01:00.0   vfio-pci\na\n"
        );
    }
}
