//! `argosy_fuzz::requests::secret_keys`.

#![no_main]

argosy_fuzz::fuzz_target!(argosy_fuzz::requests::secret_keys);
