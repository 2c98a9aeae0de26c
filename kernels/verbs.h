// The verbs by name, where one of them is spoken of and not run: add_project stands twice, for what it
// projects.
#pragma once

namespace rondo {

enum class Verb { Embed, Qkv, Attend, OProj, GateUp, DownProj, Logits, Sample };
constexpr Verb kVerbs[] = {Verb::Embed,  Verb::Qkv,      Verb::Attend, Verb::OProj,
                           Verb::GateUp, Verb::DownProj, Verb::Logits, Verb::Sample};

inline const char* verb_name(Verb verb) {
  switch (verb) {
    case Verb::Embed: return "embed";
    case Verb::Qkv: return "qkv";
    case Verb::Attend: return "attend";
    case Verb::OProj: return "add_project o";
    case Verb::GateUp: return "gate_up";
    case Verb::DownProj: return "add_project down";
    case Verb::Logits: return "logits";
    case Verb::Sample: return "sample";
  }
  return "unknown";
}

inline bool runs_per_layer(Verb verb) {
  return verb != Verb::Embed && verb != Verb::Logits && verb != Verb::Sample;
}

}  // namespace rondo
