//! libFuzzer's entry to the target `xattrmap`.
#![no_main]

ferryfs_fuzz::libfuzzer_target!("xattrmap");
