//! libFuzzer's entry to the target `envelope`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("envelope");
