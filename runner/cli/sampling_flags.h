// How a command's tokens are drawn, and drafted for.
#pragma once

#include <CLI/CLI.hpp>

#include "runner/engine.h"

namespace rondo::cli {

void add_sampling_flags(CLI::App* app, Sampling* sampling);
void add_draft_flags(CLI::App* app, Request* request);

// Makes room for the drafts of all sequences at once, as far as a step's rows go: without it a step has a
// logit row for each sequence's own token and no more.
void make_room_for_drafts(const Request& request, EngineOptions* engine);

}  // namespace rondo::cli
