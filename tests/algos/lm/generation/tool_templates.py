"""Chat templates of five families that show tools, each in words of our own."""

from __future__ import annotations

QWEN = (  # tools in the system message, results as the user's, thinking only in the last turn
    "{% set asked = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set asked.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
    "{% if tools %}{{ '<|im_start|>system\\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}"
    "{{ '# Tools' }}{% for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% elif messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% set parts = m.content.split('</think>') %}"
    "{% if loop.index0 > asked.last and parts | length > 1 %}"
    "{{ '<think>\\n' + parts[0].split('<think>')[-1].strip('\\n') + '\\n</think>\\n\\n' }}"
    "{% endif %}{{ parts[-1].lstrip('\\n') }}"
    "{% for call in m.tool_calls or [] %}"
    "{% if not loop.first or parts[-1] %}{{ '\\n' }}{% endif %}"
    '{{ \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}"
    "{% elif m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}"
    "{% endif %}{{ '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
LLAMA = (  # tools in the first user's message, results of a role of their own
    "{{ '<|begin|>' }}"
    "{% if messages[0].role == 'system' %}"
    "{{ '<|head|>system<|/head|>\\n\\n' + messages[0].content | trim + '<|eot|>' }}{% endif %}"
    "{% set first = namespace(user=true) %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|head|>user<|/head|>\\n\\n' }}"
    "{% if tools and first.user %}{% for tool in tools %}{{ (tool | tojson) + '\\n\\n' }}"
    "{% endfor %}{% endif %}{% set first.user = false %}{{ m.content | trim + '<|eot|>' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|head|>ipython<|/head|>\\n\\n' + (m.content | tojson) + '<|eot|>' }}"
    "{% elif m.role == 'assistant' and m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}{{ '<|head|>assistant<|/head|>\\n\\n' }}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' + (f.arguments | tojson) + '}<|eot|>' }}"
    "{% elif m.role == 'assistant' %}"
    "{{ '<|head|>assistant<|/head|>\\n\\n' + m.content | trim + '<|eot|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
MISTRAL = (  # tools before the last user's message, ids of nine characters, strict turns
    "{{ '<s>' }}{% set last = namespace(user=-1) %}{% set ns = namespace(index=0) %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}"
    "{% if not (m.role == 'tool' or m.tool_calls is defined) %}"
    "{% if (m.role == 'user') != (ns.index % 2 == 0) %}"
    "{{ raise_exception('the roles must alternate') }}{% endif %}"
    "{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == last.user %}"
    "{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls is defined %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}"
    "{% if call.id is not defined or call.id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + ', \"id\": \"' + call.id + '\"}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']</s>' }}"
    "{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{{ \'[TOOL_RESULTS] {"content": \' + m.content + \', "call_id": "\' + m.tool_call_id }}'
    "{{ '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
FAMILIES = {
    "qwen": (QWEN, ["<|im_end|>", "<|im_start|>"], None),
    "llama": (LLAMA, ["<|eot|>", "<|head|>", "<|/head|>", "<|begin|>"], "<|begin|>"),
    "mistral": (
        MISTRAL,
        ["</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<s>"],
        "<s>",
    ),
}  # fmt: skip
