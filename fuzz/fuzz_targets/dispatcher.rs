//! libFuzzer's entry to the target `dispatcher`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("dispatcher");
