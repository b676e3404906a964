"""What real speech measures in general, for who has no clips of the speaker.

Median and median absolute deviation over 104 Asterisk prompts of five voices, the studio recordings of five speakers in
English, Spanish, French, Italian and Russian, at 16 kHz. Printed by `benchmarks/measures.py --general`.
"""

MEASURED: dict[str, tuple[float, float]] = {
    "asr_logprob": (-0.1525, 0.06599),
    "cer": (0, 0),
    "clipped_runs": (0, 0),
    "clipped_share": (0, 0),
    "deletions": (0, 0),
    "dnsmos": (3.096, 0.1636),
    "dnsmos_background": (3.888, 0.1916),
    "dnsmos_signal": (3.542, 0.068),
    "duration_ratio": (-0.01861, 0.09128),
    "echo": (2.85, 0.3731),
    "extra_characters": (0, 0),
    "extra_end_characters": (0, 0),
    "floor_db": (-38.38, 9.451),
    "holes": (0, 0),
    "hum_db": (-34.85, 8.018),
    "inner_silence_seconds": (0.032, 0.032),
    "insertions": (0, 0),
    "last_db": (-38.83, 9.474),
    "leading_silence_seconds": (0.064, 0.032),
    "likeness": (0.8047, 0.04227),
    "lost_characters": (0, 0),
    "lost_end_characters": (0, 0),
    "lost_pace": (1, 0),
    "loudness_lufs": (-18.45, 1.136),
    "naturalness": (4.017, 0.3166),
    "noise_db": (-36.69, 4.459),
    "peak_dbfs": (-4.038, 0.7998),
    "pitch_jump_share": (0.01533, 0.01042),
    "pitch_semitones": (22.21, 1.136),
    "pitch_spread_semitones": (10.51, 1.43),
    "repeated_characters": (0, 0),
    "repetition": (0.6073, 0.06596),
    "repetition_seconds": (0.23, 0.03),
    "replaced_characters": (0, 0),
    "replaced_end_characters": (0, 0),
    "speech_behind_seconds": (0.1381, 0.09394),
    "substitutions": (0, 0),
    "tail_db": (-120, 0),
    "tail_seconds": (0, 0),
    "text_probability": (0.8256, 0.09322),
    "text_repetition": (2, 1),
    "trailing_silence_seconds": (0.02406, 0.02406),
    "voiced_share": (0.7008, 0.08248),
    "wer": (0, 0),
}
#: Clips that they come from.
CLIPS = 104
