"""The truth: releases, promotions, audit chain and artefacts by digest."""
