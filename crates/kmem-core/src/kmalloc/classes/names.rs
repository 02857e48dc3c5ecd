//! The names of the classes' caches, put together at compile time: nothing is formatted while a heap starts.

use super::Kind;

/// The names of all copies of these classes, in the order of [`Kind`].
macro_rules! names {
    ($($size:literal)*) => {
        [
            [$(concat!("kmalloc-", $size)),*],
            [$(concat!("kmalloc-cg-", $size)),*],
            [$(concat!("kmalloc-rcl-", $size)),*],
            [$(concat!("dma-kmalloc-", $size)),*],
        ]
    };
}

#[rustfmt::skip]
pub(super) static KERNEL: [[&str; 13]; Kind::COUNT] = names![
    "8" "16" "32" "64" "96" "128" "192" "256" "512" "1k" "2k" "4k" "8k"
];

#[rustfmt::skip]
pub(super) static FINE: [[&str; 69]; Kind::COUNT] = names![
    "16" "32" "48" "64" "80" "96" "112" "128"
    "160" "192" "224" "256"
    "320" "384" "448" "512"
    "640" "768" "896" "1k"
    "1280" "1536" "1792" "2k"
    "2304" "2688" "2944" "3264" "3584" "4k"
    "4368" "4672" "5440" "6528" "8k"
    "12k" "16k" "20k" "24k" "28k" "32k"
    "40k" "48k" "56k" "64k" "80k" "96k" "112k" "128k"
    "160k" "192k" "224k" "256k" "320k" "384k" "448k" "512k"
    "640k" "768k" "896k" "1024k" "1280k" "1536k" "1792k" "2048k"
    "2560k" "3072k" "3584k" "4096k"
];

#[rustfmt::skip]
pub(super) static HEADED: [[&str; 85]; Kind::COUNT] = names![
    "8" "24" "40" "56" "72" "88" "104" "120"
    "136" "152" "168" "184" "200" "216" "232" "248"
    "264" "280" "312" "344" "376" "408" "440" "504"
    "520" "632" "760" "888" "1016" "1032"
    "1272" "1528" "1784" "2040" "2056" "2296" "2680" "2936" "3256" "3576" "4088" "4k"
    "4360" "4368" "4664" "5432" "6520" "8184" "8k" "9336"
    "12280" "16376" "20472" "24568" "28664" "32760"
    "40952" "49144" "57336" "65528" "81912" "98296" "114680" "131064"
    "160k" "192k" "224k" "252k" "256k" "320k" "384k" "448k" "512k"
    "640k" "768k" "896k" "1024k" "1280k" "1536k" "1792k" "2048k"
    "2560k" "3072k" "3584k" "4096k"
];
