//! libFuzzer's entry to the target `dialect`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("dialect");
