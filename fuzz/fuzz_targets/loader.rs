//! libFuzzer's entry to the target `loader`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("loader");
