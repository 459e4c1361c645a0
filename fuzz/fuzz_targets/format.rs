//! libFuzzer's entry to the target `format`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("format");
