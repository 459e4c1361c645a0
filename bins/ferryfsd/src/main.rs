//! (laid out)
fn main() {}
